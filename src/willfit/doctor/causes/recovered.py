"""Recovered: warnings about memory after which the program goes on."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.causes.cause import Cause, Rule, certain
from willfit.doctor.causes.words import says
from willfit.doctor.report import Report

_HARMLESS: Final = (
    (re.compile(r"of pinned memory"), "Pinned host memory was refused and ordinary memory is used: "
     "copies are slower, nothing fails."),
    (re.compile(r"retrying without pipeline parallelism"), "The buffer was refused with pipeline "
     "parallelism and is tried again without."),
    (re.compile(r"Retract requests"), "The server put requests back into its queue: the cache was "
     "full for a moment."),
    (re.compile(r"nvmlInit_v2 failed; omitting"), "Only the list of processes is left out."),
)  # fmt: skip


def _find(report: Report) -> Cause | None:
    for pattern, means in _HARMLESS:
        if says(report, pattern):
            return certain("not_fatal", means)
    return None


RULE: Final = Rule(
    name="recovered",
    mechanism="These messages stand before another attempt, not before the end.",
    find=_find,
)
