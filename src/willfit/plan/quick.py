"""A quick search, for many places: the cheapest one or two changes, or a descent to more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from willfit.changes import Change, Quality, changes_for
from willfit.errors import WillfitError
from willfit.estimator.timing import job_seconds, timing
from willfit.plan.judge import Judge
from willfit.plan.result import Job
from willfit.plan.search import SAME_TIME, Candidate, applied, front
from willfit.scenario import Scenario

_SETS: Final = (
    (False, 1, False),
    (False, 2, False),
    (True, 1, False),
    (False, 2, True),
    (True, 2, True),
)
"""Sets in the order of their cost: whether on top of what helps already, of how many changes, and
whether more than one may be felt."""


def quickest_search(scenario: Scenario, job: Job, judge: Judge) -> Candidate | None:
    """A cheap set of changes that fits, in memory and in the job's time; None where none is found.

    For each quality, the best first: the cheapest set of one change, then of two (effort, then
    time, as in `plan`), then of some on top of all that helps with less loss, what is needless
    taken out again. Changes that are felt are taken in the table's order, mildest
    first. What still is too slow is made faster change by change.
    """
    quick = _Quick(
        judge=judge, job=job, start=Candidate(changes=(), scenario=scenario, time_of=_seconds)
    )
    changes = changes_for(scenario, spends=job.time_limit_seconds is not None, ahead=True)
    base = quick.start
    for quality in Quality:
        usable = [change for change in changes if change.quality <= quality]
        for on_top, size, several in _SETS:
            onto, most = base if on_top else quick.start, size * quality if several else quality
            found = quick.few(onto, usable, quality, size, most)
            if found is not None:
                return quick.pruned(found)
        base = quick.steepest(base, usable)
        hurried = quick.hurried(base, usable)
        if hurried is not None:
            return quick.pruned(hurried)
    return None


@dataclass(frozen=True, kw_only=True)
class _Quick:
    judge: Judge
    job: Job
    start: Candidate

    def fits(self, candidate: Candidate) -> bool:
        """In memory, with the nominal amounts at least."""
        return self.over(candidate) <= 0

    def passes(self, candidate: Candidate) -> bool:
        """In memory and in time."""
        return self.fits(candidate) and _in_time(candidate.scenario, self.job)

    def over(self, candidate: Candidate) -> float:
        """Bytes too many; endless where no number can be trusted or it is refused."""
        judged = self.judge(candidate.scenario)
        if judged is None:
            return math.inf
        refused = judged.verdict == "does_not_fit" and judged.over_bytes <= 0
        return math.inf if refused else judged.over_bytes

    def few(
        self, base: Candidate, changes: Sequence[Change], quality: Quality, size: int, most: int
    ) -> Candidate | None:
        """The base with the cheapest set of so many changes, the worst of that quality.

        ``most``: what their qualities may add up to.
        """
        chosen = (
            few
            for few in combinations(changes, size)
            if max(change.quality for change in few) == quality
            and sum(change.quality for change in few) <= most
            and len({change.setting for change in few}) == size
        )
        passing = filter(self.passes, filter(None, (self.changed(base, few) for few in chosen)))
        if quality == Quality.REAL:
            return next(passing, None)
        return next(iter(front(passing)), None)

    def changed(self, base: Candidate, few: Sequence[Change]) -> Candidate | None:
        """The base with these changes, in place of its own of the same settings."""
        settings = {change.setting for change in few}
        kept = [change for change in base.changes if change.setting not in settings]
        openers_first = sorted(few, key=lambda change: not change.opens)
        return applied(self.start, [*kept, *openers_first])

    def steepest(self, candidate: Candidate, changes: Sequence[Change]) -> Candidate:
        """With the change that helps most in memory, until it fits or none helps."""
        over = self.over(candidate)
        while over > 0:
            best = min(
                (
                    (self.over(made), i, made)
                    for i, made in enumerate(self.neighbours(candidate, changes))
                ),
                default=None,
                key=lambda step: step[:2],
            )
            if best is None or best[0] >= over:
                break
            over, _, candidate = best
        return candidate

    def neighbours(self, candidate: Candidate, changes: Sequence[Change]) -> list[Candidate]:
        """With one change more, or another value of a setting."""
        made = (self.changed(candidate, [c]) for c in changes if c not in candidate.changes)
        return [neighbour for neighbour in made if neighbour is not None]

    def hurried(self, candidate: Candidate, changes: Sequence[Change]) -> Candidate | None:
        """What fits, made faster by a tenth at least with each change until it is in time."""
        while self.fits(candidate):
            if _in_time(candidate.scenario, self.job):
                return candidate if candidate.changes else None
            larger = sorted(self.neighbours(candidate, changes), key=lambda made: made.seconds)
            gains = (made for made in larger if made.seconds * SAME_TIME <= candidate.seconds)
            faster = next(filter(self.fits, gains), None)
            if faster is None:
                return None
            candidate = faster
        return None

    def pruned(self, candidate: Candidate) -> Candidate:
        """Without the changes that are not needed, the costliest tried first."""
        costly_first = sorted(candidate.changes, key=lambda c: (-int(c.quality), -int(c.effort)))
        for change in costly_first:
            fewer = applied(self.start, [kept for kept in candidate.changes if kept is not change])
            if fewer is not None and fewer.changes and self.passes(fewer):
                candidate = fewer
        return candidate


def _seconds(scenario: Scenario) -> float:
    """Nominal seconds of a sample; endless where no time is known."""
    try:
        rate = timing(scenario).samples_per_second
    except WillfitError:
        return math.inf
    return 1 / rate.nominal if rate is not None and rate.nominal > 0 else math.inf


def _in_time(scenario: Scenario, job: Job) -> bool:
    """Whether the nominal time is within the limit; what has no time is not refused for it."""
    if job.time_limit_seconds is None or job.samples is None:
        return True
    try:
        seconds = job_seconds(timing(scenario), samples=job.samples, epochs=job.epochs)
    except WillfitError:
        return True
    return seconds.nominal <= job.time_limit_seconds
