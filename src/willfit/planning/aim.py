"""What a search aims at: to fit in memory, in time where a limit was given, or to be fast."""

from __future__ import annotations

from collections.abc import Sequence

from willfit.changes import Change, Quality
from willfit.planning.clock import Clock
from willfit.planning.judge import Judge, JudgeOf, Within
from willfit.planning.search import Candidate, Found, fastest, smallest
from willfit.scenario import Scenario


def aim_smallest(
    scenario: Scenario, changes: Sequence[Change], judge: Judge, clock: Clock
) -> Found:
    """The smallest changes that fit, in time too where a limit was given and can be met.

    What fits as asked is left as it is. For time nothing is given up that the model would learn or
    read. Where no set is in time, those that fit in memory alone are found.
    """
    if clock.job.time_limit_seconds is not None:
        found = _smallest(scenario, mild(changes), Within(judge, clock), clock)
        if found.verdict != "does_not_fit":
            return found
    thrifty = [change for change in changes if not change.spends]
    return _smallest(scenario, thrifty, judge, clock)


def _smallest(scenario: Scenario, changes: Sequence[Change], judge: JudgeOf, clock: Clock) -> Found:
    judged = judge(scenario)
    if judged is not None and judged.verdict == "fits":
        alone = Candidate(changes=(), scenario=scenario, time_of=clock.seconds)
        return Found(candidates=(alone,), verdict="fits", closest=(alone, judged))
    return smallest(scenario, changes, judge, clock.seconds)


def aim_fastest(
    scenario: Scenario, changes: Sequence[Change], judge: Judge, clock: Clock, count: int
) -> Found:
    """The fastest that fit without a real loss of quality; with one where nothing else fits."""
    found = fastest(scenario, mild(changes), judge, clock.seconds, count)
    if found.verdict != "does_not_fit":
        return found
    return smallest(scenario, changes, judge, clock.seconds)


def mild(changes: Sequence[Change]) -> list[Change]:
    """Those that lose little or nothing."""
    return [change for change in changes if change.quality < Quality.REAL]
