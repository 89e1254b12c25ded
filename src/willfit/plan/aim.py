"""What a search aims at: to fit in memory, in time where a limit was given, or to be fast."""

from __future__ import annotations

from collections.abc import Sequence

from willfit.changes import Change, Quality
from willfit.plan.clock import Clock
from willfit.plan.judge import Judge, Within
from willfit.plan.search import MOST_CHANGES, Found, fastest, smallest
from willfit.scenario import Scenario


def aim_smallest(
    scenario: Scenario,
    changes: Sequence[Change],
    judge: Judge,
    clock: Clock,
    *,
    most_changes: int = MOST_CHANGES,
) -> Found:
    """The smallest changes that fit, in time too where a limit was given and can be met.

    For time nothing is given up that the model would learn or read. Where no set is in time, those
    that fit in memory alone are found.
    """
    if clock.job.time_limit_seconds is not None:
        found = smallest(
            scenario, mild(changes), Within(judge, clock), clock.seconds, most_changes=most_changes
        )
        if found.verdict != "does_not_fit":
            return found
    thrifty = [change for change in changes if not change.spends]
    return smallest(scenario, thrifty, judge, clock.seconds, most_changes=most_changes)


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
