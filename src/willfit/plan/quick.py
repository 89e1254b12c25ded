"""A quick search, for many places: the cheapest one or two changes, or a descent to more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from willfit.changes import Change, Quality, changes_for
from willfit.errors import WillfitError
from willfit.estimator.timing import job_seconds, timing
from willfit.plan.judge import Judge, Judgement
from willfit.plan.result import Job
from willfit.plan.search import SAME_TIME, Candidate, applied, descend, front, subsets, with_change
from willfit.scenario import Scenario

MOST_CHANGES: Final = 2
"""Changes of a set that every set is looked at of; `plan` looks at larger ones."""


def quickest_search(scenario: Scenario, job: Job, judge: Judge) -> Candidate | None:
    """A cheap set of changes that fits, in memory and in the job's time; None where none is found.

    For each quality, the best first: the cheapest of all sets of one change, then of two (effort,
    then time, as in `plan`); where those do not suffice, the set that a descent in memory and then
    in time finds. Of changes that are felt the mildest that will do is taken, not the fastest.
    """

    def judged(asked: Scenario) -> Judgement | None:
        """Too slow does not fit either."""
        found = judge(asked)
        if found is None or found.verdict == "does_not_fit" or _in_time(asked, job):
            return found
        return replace(found, verdict="does_not_fit", over_bytes=max(found.over_bytes, 1))

    start = Candidate(changes=(), scenario=scenario, seconds=_seconds(scenario))
    limited = job.time_limit_seconds is not None
    changes = [change for change in changes_for(scenario) if limited or not change.spends]
    for quality in Quality:
        for size in range(1, MOST_CHANGES + 1):
            fitting = _fitting(start, changes, quality, size, judged)
            if fitting:
                return fitting[0] if quality == Quality.REAL else front(fitting)[0]
        usable = [change for change in changes if change.quality <= quality]
        deep = _descended(start, usable, judge, job)
        if deep is not None:
            return deep
    return None


def _descended(
    start: Candidate, changes: Sequence[Change], judge: Judge, job: Job
) -> Candidate | None:
    """Changes added until it fits in memory, then until it is in time; the needless ones out."""
    candidate: Candidate | None = start
    if not _fits(judge, start.scenario):
        candidate = descend(start, changes, judge, lambda _: 0.0)
    while candidate is not None and not _in_time(candidate.scenario, job):
        candidate = _faster(candidate, changes, judge)
    if candidate is None or not candidate.changes or not _fits(judge, candidate.scenario):
        return None
    for change in sorted(candidate.changes, key=lambda change: -int(change.quality)):
        fewer = [kept for kept in candidate.changes if kept is not change]
        made = applied(start, fewer, lambda _: 0.0)
        if made is not None and _fits(judge, made.scenario) and _in_time(made.scenario, job):
            candidate = made
    return candidate


def _faster(candidate: Candidate, changes: Sequence[Change], judge: Judge) -> Candidate | None:
    """With the change that makes it fastest and still fit; None where none gains a tenth."""
    taken = {change.setting for change in candidate.changes}
    larger = [
        made
        for change in changes
        if change.setting not in taken
        and (made := with_change(candidate, change, _seconds)) is not None
    ]
    before = _seconds(candidate.scenario)
    for made in sorted(larger, key=lambda made: made.seconds):
        if made.seconds * SAME_TIME > before:
            return None
        if _fits(judge, made.scenario):
            return made
    return None


def _fits(judge: Judge, scenario: Scenario) -> bool:
    """With the nominal amounts at least."""
    judged = judge(scenario)
    return judged is not None and judged.verdict != "does_not_fit" and judged.over_bytes <= 0


def _fitting(
    start: Candidate,
    changes: Sequence[Change],
    quality: Quality,
    size: int,
    judge: Callable[[Scenario], Judgement | None],
) -> list[Candidate]:
    """Sets of that size whose worst change is of that quality and which fit, with their times."""
    usable = [change for change in changes if change.quality <= quality]
    found = []
    for candidate in subsets(start, usable, lambda _: 0.0, size):
        if len(candidate.changes) == size and candidate.quality == quality:
            judged = judge(candidate.scenario)
            if judged is not None and judged.verdict == "fits":
                found.append(replace(candidate, seconds=_seconds(candidate.scenario)))
    return found


def _seconds(scenario: Scenario) -> float:
    """Nominal seconds of a sample; endless where no time is known."""
    try:
        rate = timing(scenario).samples_per_second
    except WillfitError:
        return float("inf")
    return 1 / rate.nominal if rate is not None and rate.nominal > 0 else float("inf")


def _in_time(scenario: Scenario, job: Job) -> bool:
    """Whether the nominal time is within the limit; what has no time is not refused for it."""
    if job.time_limit_seconds is None or job.samples is None:
        return True
    try:
        seconds = job_seconds(timing(scenario), samples=job.samples, epochs=job.epochs)
    except WillfitError:
        return True
    return seconds.nominal <= job.time_limit_seconds
