"""The doctor's text as it was pasted: a log, code, a notebook or settings, read as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from willfit.cli import doctor
from willfit.cli.examined import examine
from willfit.cli.given import Given
from willfit.doctor.kinds import kind_of
from willfit.errors import InputError
from willfit.report.text import Style
from willfit.units import MIB, format_bytes
from willfit.web.form import flags
from willfit.web.question import Question, parsed
from willfit.web.show.diagnosis import diagnosis_part, said_of_diagnosis

MAX_TEXT: Final = 2 * MIB
"""Bytes of a pasted text; the end of a log, where it failed, is far smaller."""


@dataclass(frozen=True, kw_only=True)
class Pasted(Given):
    """A text without a file; as a log it ends where it ends."""

    def log(self) -> Iterator[bytes]:
        """The text, in one piece."""
        return iter((self.content,))


def examined(question: Question) -> tuple[str, str]:
    """The diagnosis in a sentence, and as HTML; raises `InputError` on what cannot be read."""
    model, gpu = question.model, question.form.gpu
    words = [f"--model={model}", *flags(question.form)] if model else []
    words += [f"--gpu={gpu}"] if gpu else []
    texts = {"pasted text": question.pasted, "script": question.script}
    given = [_given(name, text) for name, text in texts.items() if text.strip()]
    if not given:
        raise InputError("nothing to read: paste the error, the log or the code")
    found = examine(parsed(doctor, words), given, Style(), finding=question.find)
    lint = [finding for _, finding in found.lint]
    html = diagnosis_part(found.diagnosis, lint, found.remarks, found.text(Style()))
    return said_of_diagnosis(found.diagnosis, lint), html


def _given(name: str, text: str) -> Pasted:
    content = text.encode("utf-8", "replace")
    if len(content) > MAX_TEXT:
        raise InputError(
            f"the {name} has {format_bytes(len(content))}, more than {format_bytes(MAX_TEXT)}: "
            "paste the end of it, or use 'willfit doctor FILE', which reads logs of any size"
        )
    kind = kind_of("", content)
    if kind == "snapshot":
        raise InputError("a memory snapshot is for the command line: 'willfit doctor FILE'")
    return Pasted(name=name, kind=kind, path=None, content=content)
