"""Stay: a job at a place, with what it takes there; Where: a job over places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from willfit.devices.places import Place
from willfit.formulas.timing.span import Span
from willfit.plan.result import Job
from willfit.results import Estimate
from willfit.scenario import Scenario

Status = Literal[
    "fits", "fits_changed", "too_slow", "does_not_fit", "cannot_run", "refused", "unknown"
]
"""As asked; with changes; in memory but not in time; not; not at this place, whatever the memory;
not with these settings; no number."""
PASSING: Final = ("fits", "fits_changed")


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A job at a place."""

    place: Place
    status: Status
    reason: str = ""
    """Why not; empty where it fits in memory and in time."""
    scenario: Scenario | None = None
    """The job as it would run there; None where it would not."""
    estimate: Estimate | None = None
    """Of that; of the job as asked where nothing fits."""
    changes: tuple[str, ...] = ()
    """What is changed, in the imperative."""
    seconds: Span | None = None
    """Of the whole job; None without a number of samples."""
    samples_per_second: Span | None = None
    sessions: int | None = None
    """Sessions it takes at the nominal time; None where they do not end, or the time is open."""
    price: float | None = None
    """Of the whole job; None without a price an hour."""
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    """Of the time; those of the memory are the estimate's."""

    @property
    def passes(self) -> bool:
        """Whether it fits in memory and in time."""
        return self.status in PASSING


@dataclass(frozen=True, kw_only=True)
class Handover:
    """The job after the first: what is trained is used at another place."""

    stay: Stay
    job: Job
    upload_bytes: int
    """The trained weights: an adapter, or the whole model."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Where:
    """A job over places, and the job after it."""

    scenario: Scenario
    job: Job
    stays: tuple[Stay, ...]
    then: Handover | None = None
    assumptions: tuple[str, ...] = ()
    ignored_settings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether some place will do, and the job after it fits at its own."""
        later = self.then is None or self.then.stay.passes
        return later and any(stay.passes for stay in self.stays)
