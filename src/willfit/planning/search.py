"""The search: the cheapest minimal sets of changes that fit, and the fastest sets that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations, islice
from typing import Final

from willfit.changes import Change, NotApplicable, Quality
from willfit.planning.judge import Judgement, JudgeOf
from willfit.results import Verdict
from willfit.scenario import Scenario

MOST_CHANGES: Final = 4
"""Changes of a set up to which every set is looked at."""
MOST_JUDGED: Final = 1_200
"""Sets whose memory is computed before the search descends instead: half a second."""
MOST_ENUMERATED: Final = 10_000
"""Sets of which `fastest` computes the time."""
NO_TIME: Final = 1 << 30
"""Bucket of what is never done, or whose time does not count."""
SAME_TIME: Final = 1.1
"""Times within this ratio count as equal: the time model does not know better."""

TimeOf = Callable[[Scenario], float]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A set of changes, applied."""

    changes: tuple[Change, ...]
    scenario: Scenario
    time_of: TimeOf = field(repr=False, compare=False)
    loss: int = 0
    """What all changes cost in quality, each where it was made (`Change.loss`)."""

    @cached_property
    def seconds(self) -> float:
        """Time of one unit of the work; computed only where something hangs on it."""
        return self.time_of(self.scenario)

    @cached_property
    def quality(self) -> Quality:
        """The worst of the changes; none of an empty set."""
        return max((change.quality for change in self.changes), default=Quality.NONE)

    @cached_property
    def pains(self) -> tuple[int, int, int, int]:
        """Quality, how much of it all changes cost, the worst effort, the number of changes."""
        return (
            int(self.quality),
            self.loss,
            max((int(change.effort) for change in self.changes), default=0),
            len(self.changes),
        )

    @property
    def cost(self) -> tuple[int, int, int, int, int]:
        """What is compared: the pains, and time's bucket.

        Time that is won by a real loss of quality does not count: rows cut short train fast.
        """
        return (*self.pains, NO_TIME if self.quality is Quality.REAL else _bucket(self.seconds))

    def contains(self, other: Candidate) -> bool:
        """Whether every change of the other is one of these."""
        mine = {change.id for change in self.changes}
        return all(change.id in mine for change in other.changes)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to."""

    candidates: tuple[Candidate, ...]
    """Sets that fit, the best first, none of which costs as much as another in every respect."""
    verdict: Verdict
    """``fits`` with the whole range, ``tight`` where nothing did better, else ``does_not_fit``."""
    closest: tuple[Candidate, Judgement] | None
    """The set with the least bytes too many, where none fits."""


@dataclass(kw_only=True)
class _Looking:
    """State of a search: what fits so far, and the set that misses by least."""

    start: Candidate
    judge: JudgeOf
    minimal: bool
    """Whether a set that contains another that fits is none."""
    fits: list[Candidate] = field(default_factory=list)
    tight: list[Candidate] = field(default_factory=list)
    closest: tuple[Candidate, Judgement] | None = None
    known: dict[tuple[str, ...], Judgement | None] = field(default_factory=dict)
    """What was judged, by the ids of the changes in their order."""

    @property
    def num_judged(self) -> int:
        """Sets that were judged, each once."""
        return len(self.known)

    def judged(self, candidate: Candidate) -> Judgement | None:
        """The judgement of a set, once."""
        key = tuple(change.id for change in candidate.changes)
        if key not in self.known:
            self.known[key] = self.judge(candidate.scenario)
        return self.known[key]

    def look(self, candidate: Candidate) -> Judgement | None:
        """Judge a set and remember it."""
        judged = self.judged(candidate)
        if judged is None:
            return None
        if judged.verdict == "fits" and (not self.minimal or self._is_minimal(candidate)):
            self.fits.append(candidate)
        elif judged.verdict == "tight":
            self.tight.append(candidate)
        if self.closest is None or judged.over_bytes < self.closest[1].over_bytes:
            self.closest = (candidate, judged)
        return judged

    def _is_minimal(self, candidate: Candidate) -> bool:
        """Whether no smaller set fits; some may have been passed over, for others cost no more."""
        changes = candidate.changes
        for size in range(len(changes)):
            for fewer in combinations(changes, size):
                part = applied(self.start, fewer)
                judged = self.judged(part) if part is not None else None
                if judged is not None and judged.verdict == "fits":
                    return False
        return True

    def misses(self, candidate: Candidate) -> bool:
        """Whether a set is not known to fit, so that a larger one may be minimal."""
        return not any(candidate.contains(other) for other in self.fits)

    def found(self) -> Found:
        """The front of what fits, else of what is tight."""
        verdict: Verdict = "fits" if self.fits else "tight" if self.tight else "does_not_fit"
        return Found(
            candidates=front(self.fits or self.tight), verdict=verdict, closest=self.closest
        )


def smallest(
    scenario: Scenario,
    changes: Sequence[Change],
    judge: JudgeOf,
    time_of: TimeOf,
    *,
    most_changes: int = MOST_CHANGES,
) -> Found:
    """Minimal sets that fit: none contains another that does.

    Sets are looked at by quality and then by size, each once, so that what is found first costs
    least; a set that could not be on the front any more is not judged. Where the sets of up to
    ``most_changes`` of a quality do not suffice, `descend` goes on before anything of worse quality
    is looked at.
    """
    start = Candidate(changes=(), scenario=scenario, time_of=time_of)
    looking = _Looking(start=start, judge=judge, minimal=True)
    looking.look(start)
    for quality in Quality:
        usable = [change for change in changes if change.quality <= quality]
        for candidate in subsets(start, usable, most_changes, grows=looking.misses):
            if looking.num_judged >= MOST_JUDGED:
                break
            if candidate.quality == quality and not _hopeless(candidate, looking.fits):
                looking.look(candidate)
        if all(found.quality == quality for found in looking.fits):
            deep = descend(start, usable, judge)
            if deep is not None:
                looking.look(deep)
    return looking.found()


def fastest(
    scenario: Scenario, changes: Sequence[Change], judge: JudgeOf, time_of: TimeOf, count: int
) -> Found:
    """The fastest sets that fit; of those that take the same time, the one that costs least.

    Sets without a real loss of quality come before the others. All are put in order by what costs
    little to know; memory is computed in that order until ``count`` fit, and only of those that no
    set before them beats.
    """
    start = Candidate(changes=(), scenario=scenario, time_of=time_of)
    looking = _Looking(start=start, judge=judge, minimal=False)
    every = [start, *islice(subsets(start, changes, MOST_CHANGES), MOST_ENUMERATED)]
    every.sort(key=lambda item: (item.quality is Quality.REAL, _bucket(item.seconds), item.pains))
    for candidate in every:
        if len(looking.fits) >= count or looking.num_judged >= MOST_JUDGED:
            break
        if not any(_at_least_as_fast(other, candidate) for other in looking.fits):
            looking.look(candidate)
    verdict: Verdict = "fits" if looking.fits else "tight" if looking.tight else "does_not_fit"
    ordered = tuple(_by_time(looking.fits or looking.tight))
    return Found(candidates=ordered, verdict=verdict, closest=looking.closest)


def _by_time(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """In steps of `SAME_TIME` from the fastest; within a step the one that costs least alone."""
    best = min((item.seconds for item in candidates), default=0.0)

    def step(item: Candidate) -> int:
        if item.seconds == math.inf or best <= 0:
            return NO_TIME
        return math.floor(math.log(max(item.seconds / best, 1.0)) / math.log(SAME_TIME))

    order = sorted(candidates, key=lambda c: (c.quality is Quality.REAL, step(c), c.pains))
    kept: list[Candidate] = []
    for item in order:
        if not any(
            _no_worse(other.pains, item.pains) and step(other) <= step(item) for other in kept
        ):
            kept.append(item)
            yield item


def _no_worse(mine: tuple[int, ...], its: tuple[int, ...]) -> bool:
    return all(one <= other for one, other in zip(mine, its, strict=True))


def _at_least_as_fast(one: Candidate, other: Candidate) -> bool:
    """Whether one is no slower and costs no more."""
    return _no_worse(one.pains, other.pains) and _bucket(one.seconds) <= _bucket(other.seconds)


def subsets(
    start: Candidate,
    changes: Sequence[Change],
    most_changes: int,
    grows: Callable[[Candidate], bool] = lambda _: True,
) -> Iterator[Candidate]:
    """Every applicable set of 1 to ``most_changes`` changes, small ones first, in table order.

    A set holds one change of a setting. What does not apply after the changes before it leaves out
    every set that begins so. A set is enlarged only where it ``grows``, asked after the whole level
    of its size was given out.
    """
    level: list[tuple[int, Candidate]] = [(-1, start)]
    for _ in range(most_changes):
        larger: list[tuple[int, Candidate]] = []
        for last, candidate in level:
            if not grows(candidate):
                continue
            for index, made in _enlarged(candidate, changes, last):
                larger.append((index, made))
                yield made
        level = larger


def _enlarged(
    candidate: Candidate, changes: Sequence[Change], last: int
) -> Iterator[tuple[int, Candidate]]:
    taken = {change.setting for change in candidate.changes}
    for index in range(last + 1, len(changes)):
        if changes[index].setting not in taken:
            made = with_change(candidate, changes[index])
            if made is not None:
                yield index, made


def with_change(candidate: Candidate, change: Change) -> Candidate | None:
    """The candidate with one more change; None where it does not apply."""
    scenario = change.apply(candidate.scenario)
    if isinstance(scenario, NotApplicable):
        return None
    return Candidate(
        changes=(*candidate.changes, change),
        scenario=scenario,
        time_of=candidate.time_of,
        loss=candidate.loss + change.loss(candidate.scenario),
    )


def descend(start: Candidate, changes: Sequence[Change], judge: JudgeOf) -> Candidate | None:
    """A larger set that fits: the change that helps most is added until it does.

    At every step changes without loss of quality go first, for one may help only after a costly
    one, as a smaller micro-batch does once the optimizer's states no longer set the peak. In the
    end what costs quality is made as mild as the others allow (a longer cut), and every change that
    is not needed is taken out, the costliest first. None where all of them together do not fit.
    """
    candidate = start
    for quality in Quality:
        usable = [change for change in changes if change.quality <= quality]
        candidate, fits = _steepest(candidate, usable, judge)
        if fits:
            passes = partial(_judged_fits, judge)
            mild = milder(start, candidate, usable, passes)
            return milder(start, without_needless(start, mild, passes), usable, passes)
    return None


def _steepest(
    candidate: Candidate, changes: Sequence[Change], judge: JudgeOf
) -> tuple[Candidate, bool]:
    judged = judge(candidate.scenario)
    over = math.inf if judged is None else judged.short_bytes
    while True:
        steps = [
            (int(made.changes[-1].quality), result.short_bytes, index, made)
            for index, made in enumerate(_neighbours(candidate, changes))
            if (result := judge(made.scenario)) is not None and result.short_bytes < over
        ]
        best = min(steps, default=None, key=lambda step: step[:3])
        if best is None:
            return candidate, over <= 0
        _, over, _, candidate = best
        if over <= 0 and _judged_fits(judge, candidate):
            return candidate, True


def _judged_fits(judge: JudgeOf, candidate: Candidate) -> bool:
    judged = judge(candidate.scenario)
    return judged is not None and judged.verdict == "fits"


def _neighbours(candidate: Candidate, changes: Sequence[Change]) -> Iterator[Candidate]:
    taken = {change.setting for change in candidate.changes}
    for change in changes:
        if change.setting not in taken:
            made = with_change(candidate, change)
            if made is not None:
                yield made


def without_needless(
    start: Candidate, candidate: Candidate, passes: Callable[[Candidate], bool]
) -> Candidate:
    """The candidate less each change that it passes without, the costliest tried first."""
    costly_first = sorted(
        candidate.changes, key=lambda change: (-int(change.quality), -int(change.effort))
    )
    for change in costly_first:
        fewer = applied(start, [kept for kept in candidate.changes if kept is not change])
        if fewer is not None and passes(fewer):
            candidate = fewer
    return candidate


def milder(
    start: Candidate,
    candidate: Candidate,
    changes: Sequence[Change],
    passes: Callable[[Candidate], bool],
) -> Candidate:
    """The candidate with each change that costs quality replaced by the mildest one that passes.

    It is a longer cut, or another setting (or value of one of them) that was of no use before.
    """
    for change in sorted(candidate.changes, key=lambda change: -int(change.quality)):
        if change.quality is Quality.NONE:
            break
        made = [applied(start, _swapped(candidate.changes, change, other)) for other in changes]
        mild = [one for one in made if one is not None and one.loss < candidate.loss]
        candidate = next(filter(passes, sorted(mild, key=lambda one: one.pains)), candidate)
    return candidate


def _swapped(changes: Iterable[Change], old: Change, new: Change) -> list[Change]:
    """The changes with another in the place of one, and in that of its own setting."""
    kept = [one for one in changes if one is old or one.setting != new.setting]
    return [new if one is old else one for one in kept]


def applied(start: Candidate, changes: Iterable[Change]) -> Candidate | None:
    """The start with these changes in their order; None where one does not apply."""
    candidate: Candidate | None = start
    for change in changes:
        candidate = with_change(candidate, change) if candidate is not None else None
    return candidate


def front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats, cheapest first; of equal ones the first stays.

    What is compared is quality, effort, number of changes and time (in steps of `SAME_TIME`), see
    `beats`. A set that contains another that fits is not minimal.
    """
    every = sorted(candidates, key=lambda item: (len(item.changes), item.cost))
    kept: list[Candidate] = []
    for number, candidate in enumerate(every):
        minimal = not any(candidate.contains(other) for other in every[:number])
        if minimal and not any(beats(other, candidate) for other in kept):
            kept = [other for other in kept if not beats(candidate, other)]
            kept.append(candidate)
    return tuple(sorted(kept, key=lambda item: item.cost))


def beats(one: Candidate, other: Candidate) -> bool:
    """Whether one costs no more than the other in any respect."""
    return _no_worse(one.pains, other.pains) and one.cost[-1] <= other.cost[-1]


def _hopeless(candidate: Candidate, fits: Iterable[Candidate]) -> bool:
    """Whether a set that fits is part of it, or beats it."""
    return any(candidate.contains(other) or beats(other, candidate) for other in fits)


def _bucket(seconds: float) -> int:
    """Times of a bucket are within `SAME_TIME` of each other."""
    if seconds <= 0 or math.isinf(seconds):
        return 0 if seconds <= 0 else NO_TIME
    return round(math.log(seconds) / math.log(SAME_TIME))
