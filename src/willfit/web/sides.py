"""The sides of a comparison: the form, and the lines that say what the others do otherwise."""

from __future__ import annotations

import shlex
from typing import Final

from willfit.cli.estimate import estimated
from willfit.comparing import Compared
from willfit.errors import InputError, WillfitError
from willfit.web.form import lines_of
from willfit.web.question import Question

MOST: Final = 8
"""Sides of a comparison; a wider table is not read."""


def sides_of(question: Question) -> list[Compared]:
    """Every side estimated, or with the reason for none; raises `InputError` on too few or many."""
    lines = lines_of(question.form)
    if not lines:
        raise InputError("nothing to compare with: write another model or other settings")
    if len(lines) >= MOST:
        raise InputError(f"{len(lines) + 1} sides are more than {MOST}: leave some out")
    return [_side(question, question.model, ""), *(_side(question, line, line) for line in lines)]


def _side(question: Question, label: str, line: str) -> Compared:
    try:
        found = estimated(question.request(_words(question, line)), search_limits=False)
    except WillfitError as error:
        return Compared(label=label, reason=str(error))
    return Compared(label=label, estimate=found)


def _words(question: Question, line: str) -> list[str]:
    """The form's settings, and over them those of the line; it may name another model."""
    try:
        own = shlex.split(line)
    except ValueError as error:
        raise InputError(f"cannot read {line[:60]!r}: {str(error).lower()}") from None
    words = question.words()
    if own and not own[0].startswith("-"):
        words[0] = own.pop(0)
    return [*words, *own]
