"""Sentences: a table of fixed wordings, for the programs whose message is one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from willfit.doctor.messages.quotation import is_said
from willfit.doctor.messages.reader import report
from willfit.doctor.messages.squeezed import Squeezed
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report, Weight

_AMOUNT: Final = "_bytes"
"""Ending of the names of groups that hold an amount."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One wording: ``unable to mmap N bytes from file <…>: Cannot allocate memory (12)``."""

    pattern: re.Pattern[str]
    """For squeezed text, see `willfit.doctor.messages.squeezed.unspaced`. Its named groups are the
    fields of the report: those that end in ``_bytes`` amounts, the others numbers."""
    family: str
    backend: str | None = None
    """Of the device, where the words name it."""
    marks: frozenset[str] = frozenset()
    release: str = ""
    unit: str = ""
    """Of amounts that are printed without one."""
    inside: bool = False
    """Whether the words end a sentence that is in the user's language or tells of a file."""
    free: bool = False
    """Too particular for other people's prose: quoted or not, it was said."""
    weight: Weight = "words"
    """Of a sentence whose numbers are absent; with an amount ``words`` are ``numbers``."""


def read_sentences(flat: Flat, table: Sequence[Sentence]) -> Iterator[Report]:
    """Reports of all sentences of ``table``, in the order of the text; the earlier row counts."""
    squeezed = Squeezed(flat)
    found = [
        (match.start(), rank, match, row)
        for rank, row in enumerate(table)
        for match in row.pattern.finditer(squeezed.text)
    ]
    end = -1
    for start, _, match, row in sorted(found, key=lambda item: item[:2]):
        if start < end:
            continue
        reading = _report(squeezed, match, row)
        if reading is not None:
            end = match.end()
            yield reading


def _report(squeezed: Squeezed, match: re.Match[str], row: Sentence) -> Report | None:
    groups = [name for name, text in match.groupdict().items() if text is not None]
    amounts = {n: _amount(squeezed, match, n, row.unit) for n in groups if n.endswith(_AMOUNT)}
    stretch = squeezed.stretch(match.start(), match.end())
    words_only = not (amounts or row.free)
    said = is_said(squeezed.flat, *stretch.span(), words_only=words_only, inside=row.inside)
    if not said:
        return None
    fields: dict[str, Any] = {"backend": row.backend}
    fields |= {n: _number(match[n]) for n in groups if n not in amounts}
    return replace(
        report(squeezed.flat, stretch, family=row.family, fields=fields, amounts=amounts),
        marks=row.marks,
        release=row.release,
        weight="numbers" if amounts and row.weight == "words" else row.weight,
    )


def _amount(squeezed: Squeezed, match: re.Match[str], group: str, unit: str) -> str:
    printed = squeezed.amount(match, group)
    return printed if printed[-1:].isalpha() else f"{printed} {unit}"


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
