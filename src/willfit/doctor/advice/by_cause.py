"""Remedies by cause, from the table, with what the message's own numbers say of them."""

from __future__ import annotations

from collections.abc import Iterator

from willfit.doctor.advice.hints import HINTS
from willfit.doctor.causes.cause import Cause
from willfit.doctor.diagnosis import Remedy
from willfit.doctor.report import Report


def remedies_for(cause: Cause, report: Report) -> Iterator[Remedy]:
    """What can be done about it, the first thing first."""
    if "not_fatal" in report.marks and cause.name == "not_fatal":
        return
    seen: set[str] = set()
    for hint in HINTS:
        if hint.id not in seen and hint.is_for(cause.name, report):
            seen.add(hint.id)
            yield Remedy(
                id=hint.id,
                title=hint.title,
                saves_bytes=hint.saves(report) if hint.saves is not None else None,
                snippet=(hint.fitted(report) if hint.fitted is not None else None) or hint.snippet,
                quality=hint.quality,
            )
