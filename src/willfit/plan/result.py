"""Plan: a set of changes with what each saves, what all cost, and the estimate that results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from willfit.changes import Change, Quality
from willfit.formulas.timing.span import Span
from willfit.results import Estimate
from willfit.scenario import Scenario

Goal = Literal["smallest-change", "fastest"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """How much work there is, and what it may take."""

    samples: int | None = None
    """Rows of the data; None leaves hours out."""
    epochs: float = 1.0
    time_limit_seconds: float | None = None
    price_per_hour: float | None = None
    """Of the whole machine, in the user's currency."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change of a plan."""

    change: Change
    saves_bytes: int
    """Device bytes on the binding GPU less than before it; negative where it takes more."""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Time of a scenario's job."""

    unit_seconds: Span
    """Of one sample, all GPUs together."""
    unit: str
    """What that is of: ``sample``."""
    total_seconds: Span | None = None
    """Of the whole job; None where the number of samples was not given."""
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Changes that make a scenario fit, in the order of their application."""

    steps: tuple[Step, ...]
    """Their ``saves_bytes`` add up to baseline − plan."""
    scenario: Scenario
    estimate: Estimate
    quality: Quality
    relative_time: float | None
    """Time of a sample against the baseline's; None where no time is known."""
    duration: Duration | None
    in_time: bool | None
    """Whether the job is done within the limit; None without one."""
    price: float | None
    """Of the whole job; None without a price an hour."""


@dataclass(frozen=True, kw_only=True)
class Planning:
    """What planning came to."""

    goal: Goal
    job: Job
    baseline: Estimate
    duration: Duration | None
    """The baseline's."""
    plans: tuple[Plan, ...]
    """The best first; one without steps where the baseline fits."""
    why_none: str | None
    """Why nothing fits, by how much, and where it would; None where something does."""
    num_judged: int
    """Sets of changes whose memory was computed."""
    not_applicable: dict[str, str]
    """Changes that were no candidates, with the reason."""

    @property
    def fits(self) -> bool:
        """Whether a plan fits, in memory and, where a limit was given, in time."""
        return any(plan.in_time is not False for plan in self.plans)
