"""Shared memory: a worker's bus error, or a file of NCCL's that cannot be made."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.causes.cause import Cause, Rule, certain, likely
from willfit.doctor.causes.words import is_of, marked, near
from willfit.doctor.report import Report

_SIGBUS: Final = re.compile(r"(?:return code|exitcode:?|exit code) ?=? ?-7\b|SIGBUS|signal 7\b")


def _find(report: Report) -> Cause | None:
    if is_of(report, "dataloader-shm"):
        return certain(
            "shm",
            "A DataLoader worker died of a bus error: /dev/shm, through which "
            "workers hand over batches, was full; neither RAM nor GPU was.",
        )
    if is_of(report, "nccl") and marked(report, "shm"):
        return certain(
            "shm",
            "Ranks of one machine talk through files in /dev/shm, and it was full: Docker gives "
            "64 MiB; neither RAM nor GPU was.",
        )
    if is_of(report, "host-kill") and (marked(report, "sigbus") or near(report, _SIGBUS)):
        return likely(
            "shm",
            "−7 is SIGBUS: a page of shared memory could not be provided, as "
            "where /dev/shm of a container is too small (Docker gives 64 MiB).",
        )
    return None


RULE: Final = Rule(
    name="shared memory",
    mechanism="A write beyond what /dev/shm can hold raises SIGBUS, which nothing else here does, "
    "and a file that is filled first is refused by name.",
    find=_find,
)
