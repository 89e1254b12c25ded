"""Sessions: a job's hours against the time limit, the sessions and the quota of a place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from willfit.devices.places import Place
from willfit.formulas.timing.span import Span

HOUR: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """How a job's time fits a place."""

    late: str = ""
    """Why it is too slow; empty where it is not."""
    count: int | None = None
    """Sessions at the nominal time; None where they do not end."""
    notes: tuple[str, ...] = ()


def sessions_of(seconds: Span, place: Place, limit: float | None, *, trains: bool) -> Sessions:
    """The nominal time decides; where only the slow end is over, that is a note."""
    hours, longest = seconds.nominal / HOUR, place.session_hours
    if not math.isfinite(hours):
        return Sessions(late="no end of it is known")
    if limit is not None and seconds.nominal > limit:
        return Sessions(late=f"{hours:,.1f} h against a limit of {limit / HOUR:,.1f} h")
    close = _close(seconds, limit, "the limit")
    if longest is None:
        return Sessions(notes=close)
    count = max(math.ceil(hours / longest), 1)
    if count == 1:
        notes = close or _close(seconds, longest * HOUR, f"a session of {longest:g} h")
        return Sessions(count=1, notes=(*notes, *_quota(hours, place)))
    if not place.resumable:
        return Sessions(
            late=f"{hours:,.1f} h, and all there is is one session of {longest:g} h", count=count
        )
    resuming = (
        "save checkpoints (save_steps) where they are kept, and resume_from_checkpoint"
        if trains
        else "split the samples, and keep the results of each"
    )
    said = f"{count} sessions of {longest:g} h: {resuming}"
    return Sessions(count=count, notes=(*close, said, *_quota(hours, place)))


def _close(seconds: Span, limit: float | None, what: str) -> tuple[str, ...]:
    """Where only the slow end of the range is over."""
    if limit is None or seconds.high <= limit:
        return ()
    return (f"at its slowest {seconds.high / HOUR:,.1f} h, over {what}",)


def _quota(hours: float, place: Place) -> tuple[str, ...]:
    if place.weekly_hours is None or hours <= place.weekly_hours:
        return ()
    weeks = math.ceil(hours / place.weekly_hours)
    return (f"over the quota of {place.weekly_hours:g} h a week: {weeks} weeks",)
