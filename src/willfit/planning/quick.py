"""A quick search, for many places: a cheap set of changes that fits, in a fraction of a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from willfit.changes import Change, Quality, changes_for
from willfit.planning.aim import mild
from willfit.planning.clock import Clock
from willfit.planning.judge import Judge, JudgeOf, Within
from willfit.planning.result import Job
from willfit.planning.search import Candidate, applied, front, without_needless
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
    """A cheap set of changes that fits, in time too where that can be; None where none is found.

    As in `aim_smallest`, for time nothing is given up that the model would learn or read.
    """
    clock = Clock(job=job)
    start = Candidate(changes=(), scenario=scenario, time_of=clock.seconds)
    if job.time_limit_seconds is not None:
        spending = mild(changes_for(scenario, spends=True, ahead=True))
        found = _Quick(judge=Within(judge, clock), start=start).search(spending)
        if found is not None:
            return found
    return _Quick(judge=judge, start=start).search(changes_for(scenario, ahead=True))


@dataclass(frozen=True, kw_only=True)
class _Quick:
    judge: JudgeOf
    start: Candidate

    def search(self, changes: Sequence[Change]) -> Candidate | None:
        """For each quality, the best first: sets of one change, of two, then on top of a descent.

        The descent takes what helps most with less loss, again and again. What is needless in the
        end is taken out. Of changes that are felt the mildest goes first, the table's order.
        """
        base = self.start
        for quality in Quality:
            usable = [change for change in changes if change.quality <= quality]
            for on_top, size, several in _SETS:
                onto, most = base if on_top else self.start, size * quality if several else quality
                found = self.few(onto, usable, quality, size, most)
                if found is not None:
                    return self.pruned(found)
            base = self.steepest(base, usable)
            if base.changes and self.over(base) <= 0:
                return self.pruned(base)
        return None

    def over(self, candidate: Candidate) -> float:
        """Bytes too many at the high end, or late; endless where refused or no number is known."""
        judged = self.judge(candidate.scenario)
        if judged is None:
            return math.inf
        refused = judged.verdict == "does_not_fit" and judged.short_bytes <= 0
        return math.inf if refused else judged.short_bytes

    def fits(self, candidate: Candidate) -> bool:
        """With the whole range."""
        judged = self.judge(candidate.scenario)
        return judged is not None and judged.verdict == "fits"

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
        fitting = filter(self.fits, filter(None, (self.changed(base, few) for few in chosen)))
        if quality == Quality.REAL:
            return next(fitting, None)
        return next(iter(front(fitting)), None)

    def changed(self, base: Candidate, few: Sequence[Change]) -> Candidate | None:
        """The base with these changes, in place of its own of the same settings."""
        settings = {change.setting for change in few}
        kept = [change for change in base.changes if change.setting not in settings]
        openers_first = sorted(few, key=lambda change: not change.opens)
        return applied(self.start, [*kept, *openers_first])

    def steepest(self, candidate: Candidate, changes: Sequence[Change]) -> Candidate:
        """With the change that helps most, until it fits or none helps."""
        over = self.over(candidate)
        while over > 0:
            made = (self.changed(candidate, [c]) for c in changes if c not in candidate.changes)
            steps = ((self.over(m), number, m) for number, m in enumerate(filter(None, made)))
            best = min(steps, default=None, key=lambda step: step[:2])
            if best is None or best[0] >= over:
                break
            over, _, candidate = best
        return candidate

    def pruned(self, candidate: Candidate) -> Candidate:
        """Without the changes that are not needed; what is recommended changes something."""
        return without_needless(
            self.start, candidate, lambda fewer: bool(fewer.changes) and self.over(fewer) <= 0
        )
