"""Clock: the time of scenarios, for the search by the thousand and for people with its range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from willfit.errors import WillfitError
from willfit.estimator.timing import Timing, job_seconds, relative_time, timing
from willfit.plan.result import Duration, Job
from willfit.scenario import Scenario

UNKNOWN: Final = math.inf


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Times scenarios of one job."""

    job: Job

    def seconds(self, scenario: Scenario) -> float:
        """Nominal seconds of one sample, all GPUs together; endless where no time is known."""
        timed = self._timing(scenario)
        if timed is None or timed.samples_per_second is None:
            return UNKNOWN
        return 1.0 / timed.samples_per_second.nominal

    def duration(self, scenario: Scenario) -> Duration | None:
        """With the range, and of the whole job; None where no time is known."""
        timed = self._timing(scenario)
        if timed is None or timed.samples_per_second is None:
            return None
        samples = self.job.samples
        return Duration(
            unit="sample",
            unit_seconds=timed.samples_per_second.rate(1.0),
            total_seconds=None
            if samples is None
            else job_seconds(timed, samples=samples, epochs=self.job.epochs),
            assumptions=(*timed.assumptions, *timed.unsupported),
        )

    def relative(self, before: Scenario, after: Scenario) -> float | None:
        """Time of a sample after over before; None where either is not known."""
        first, second = self._timing(before), self._timing(after)
        if first is None or second is None:
            return None
        return relative_time(first, second)

    def in_time(self, scenario: Scenario) -> bool | None:
        """Whether the job's nominal time is within the limit; None without a limit or a time."""
        whole = self._whole(scenario)
        return None if whole is None else whole <= 1

    def lateness(self, scenario: Scenario) -> float:
        """By what part of the limit the job takes longer; what has no time is not late."""
        return (self._whole(scenario) or 0.0) - 1

    def _whole(self, scenario: Scenario) -> float | None:
        """Nominal time of the job over the limit."""
        limit, samples = self.job.time_limit_seconds, self.job.samples
        timed = self._timing(scenario) if limit is not None and samples is not None else None
        if timed is None or limit is None or samples is None:
            return None
        return job_seconds(timed, samples=samples, epochs=self.job.epochs).nominal / limit

    def _timing(self, scenario: Scenario) -> Timing | None:
        try:
            return timing(scenario)
        except WillfitError:
            return None
