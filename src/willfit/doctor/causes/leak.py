"""Leaks: memory of an earlier attempt in the same process."""

from __future__ import annotations

from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, likely
from willfit.doctor.causes.numbers import Numbers
from willfit.doctor.causes.words import TORCH, has, is_of
from willfit.doctor.report import Report

MOST: Final = 0.8
"""So much of the card in tensors before this run has done a step."""


def _find(report: Report) -> Cause | None:
    numbers = Numbers(report)
    allocated, total = numbers.allocated, numbers.total
    if not is_of(report, *TORCH) or allocated is None or not total:
        return None
    caught = has(report, "printed") and not report.context.frames
    if not caught or not has(report, "first_step") or allocated < MOST * total:
        return None
    return likely(
        "leak_previous",
        f"{amount(allocated)} of {amount(total)} is in tensors at the "
        "first step, and the error was caught and printed: the frames of an earlier "
        "failure still hold what it had allocated.",
    )


RULE: Final = Rule(
    name="earlier attempt",
    mechanism="A caught exception keeps the frames of its traceback, and they keep their tensors.",
    find=_find,
)
