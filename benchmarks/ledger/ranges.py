"""The uncertainty that `estimate` prints, made of the ledger: each source left out in turn.

For a kind of work at a level, how far measurements lie below and above the estimate (beyond what
unknown settings explain) is taken over sources that weigh the same, so that `PART` of them is
inside on either side. A source that is left out is held to the figures of the others. Stacks other
than transformers' are left out, for an estimate says what transformers does, and so is what an
importer sets apart (`About.apart`).
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, get_args

from benchmarks.ledger.row import Known, Outcome
from willfit.estimator.uncertainty import Work
from willfit.results import Level

PART: Final = 0.99
"""Of the measurements on each side, so that about 95 % of a source that is left out are inside."""
TIERS: Final = ("A", "B")
"""Tier C is coarse: gigabytes without a tool's name say little about an error of 5 %."""
LEVELS: Final[tuple[Level, ...]] = ("formula", "trace")
WORKS: Final[tuple[Work, ...]] = get_args(Work)
LEAST: Final = 0.01
"""No side is narrower: drivers, workspaces and kernels' scratch differ by that."""
FEWEST_ROWS: Final = 5
"""Of a source in a kind of work, or it is only held to the range: a row says nothing of a tail."""
FEWEST_SOURCES: Final = 2
"""Of a kind of work; with fewer the kinds of `INSTEAD` count, then all of the level."""
INSTEAD: Final = {"loading": ("loading", "inference")}
"""A loaded model is a part of every inference."""
ALONE: Final = ("gptq_several",)
"""Taken from the only source that measured it: it is off there, and nowhere else."""
DATA: Final = Path(__file__).parents[2] / "src" / "willfit" / "data" / "uncertainty.json"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How far measurements lie below and above an estimate, as parts of it."""

    below: float
    above: float


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A source held to the ranges that the others give."""

    source: str
    level: Level
    counter: str
    num_rows: int
    num_inside: int
    half_widths: tuple[float, ...]
    """Of each row, as part of the estimate; unknown settings included."""

    @property
    def half_width(self) -> float:
        """Their median."""
        return statistics.median(self.half_widths)

    @property
    def is_printed(self) -> bool:
        """Whether `range` is of this counter at this level."""
        return self.level == "trace" or self.counter == "allocated"


Key = tuple[Level, str, str]
"""Level, counter, kind of work."""
COUNTERS: Final = ("allocated", "reserved")


def parts(outcomes: Iterable[Outcome]) -> dict[Key, Parts]:
    """By level, counter and kind of work."""
    usable = [outcome for outcome in outcomes if _is_usable(outcome)]
    found: dict[Key, Parts] = {}
    for level, counter in product(LEVELS, COUNTERS):
        counted = _counted(level, counter)
        both = [o for o in usable if o.level == level and o.counter in counted]
        for work in WORKS:
            kinds = ((work,), INSTEAD.get(work, (work,)), WORKS)
            groups = [[o for o in both if o.work in kind] for kind in kinds]
            if work in ALONE and groups[0]:
                found[level, counter, work] = _parts(groups[0])
                continue
            many = [_of_many_rows(group) for group in groups]
            enough = (g for g in many if len({o.source for o in g}) >= FEWEST_SOURCES)
            found[level, counter, work] = _parts(next(enough, both))
    return found


def _of_many_rows(outcomes: Sequence[Outcome]) -> list[Outcome]:
    counts = Counter(outcome.source for outcome in outcomes)
    return [outcome for outcome in outcomes if counts[outcome.source] >= FEWEST_ROWS]


def _counted(level: Level, counter: str) -> tuple[str, ...]:
    """Counters whose rows say how far off a level is.

    A trace replays the allocator, so its range is around reserved memory, whichever counter is
    asked for: what it is off by in allocated memory is so in both, and the replay adds its own.
    """
    return COUNTERS if level == "trace" else (counter,)


def _is_usable(outcome: Outcome) -> bool:
    if outcome.tier not in TIERS or outcome.error is None or outcome.work is None:
        return False
    return outcome.generation != "other" and not outcome.apart


def _parts(outcomes: Sequence[Outcome]) -> Parts:
    ends = [_beyond(outcome) for outcome in outcomes]
    sources = [outcome.source for outcome in outcomes]
    return Parts(
        below=_weighted(zip(sources, (below for below, _ in ends), strict=True)),
        above=_weighted(zip(sources, (above for _, above in ends), strict=True)),
    )


def _beyond(outcome: Outcome) -> tuple[float, float]:
    """How far a measurement lies below and above what unknown settings explain."""
    nominal = outcome.estimated_bytes or 1
    low = outcome.unknown_low_bytes if outcome.unknown_low_bytes is not None else nominal
    high = outcome.unknown_high_bytes if outcome.unknown_high_bytes is not None else nominal
    below = max(low - outcome.measured_bytes, 0) / nominal / outcome.wider
    return below, max(outcome.measured_bytes - high, 0) / nominal / outcome.wider


def _weighted(pairs: Iterable[tuple[str, float]]) -> float:
    """The quantile `PART` of values whose sources weigh the same."""
    values = sorted(pairs, key=lambda pair: pair[1])
    if not values:
        return LEAST
    counts: dict[str, int] = {}
    for source, _ in values:
        counts[source] = counts.get(source, 0) + 1
    wanted = PART * len(counts)
    reached = 0.0
    for source, value in values:
        reached += 1 / counts[source]
        if reached >= wanted - 1e-9:
            return max(value, LEAST)
    return max(values[-1][1], LEAST)


def leave_one_out(outcomes: Sequence[Outcome]) -> list[LeftOut]:
    """Every source against the ranges that all others give."""
    usable = [outcome for outcome in outcomes if _is_usable(outcome)]
    found: list[LeftOut] = []
    for source in sorted({outcome.source for outcome in usable}):
        others = parts(outcome for outcome in usable if outcome.source != source)
        for level, counter in product(LEVELS, COUNTERS):
            key = (source, level, counter)
            mine = [o for o in usable if (o.source, o.level, o.counter) == key]
            if mine:
                found.append(_held(mine, others))
    return found


def _held(mine: Sequence[Outcome], others: Mapping[Key, Parts]) -> LeftOut:
    level, inside, widths = mine[0].level, 0, []
    for outcome in mine:
        part = others[level, str(outcome.counter), str(outcome.work)]
        below, above = _beyond(outcome)
        inside += below <= part.below and above <= part.above
        unknown = (outcome.unknown_high_bytes or 0) - (outcome.unknown_low_bytes or 0)
        own = (part.below + part.above) * outcome.wider
        widths.append((unknown / (outcome.estimated_bytes or 1) + own) / 2)
    return LeftOut(
        source=mine[0].source,
        level=level,
        counter=str(mine[0].counter),
        num_rows=len(mine),
        num_inside=inside,
        half_widths=tuple(widths),
    )


def data_of(outcomes: Sequence[Outcome], seen_sm: Iterable[int]) -> dict[str, Any]:
    """What ``src/willfit/data/uncertainty.json`` holds, parts rounded up to a thousandth."""
    found = parts(outcomes)
    return {
        "source": "benchmarks/ledger, each source left out in turn (docs/accuracy.md)",
        "parts": {
            level: {
                counter: {
                    work: [
                        _up(found[level, counter, work].below),
                        _up(found[level, counter, work].above),
                    ]
                    for work in WORKS
                }
                for counter in COUNTERS
            }
            for level in LEVELS
        },
        "seen_sm": sorted(filter(None, seen_sm)),
        "unseen_factor": 2,
    }


def seen_sm(known: Iterable[Known]) -> set[int]:
    """Compute capabilities of the cards that a source names."""
    return {capability for one in known for capability in one.sm}


def _up(value: float) -> float:
    return -(-round(value * 1e6) // 1000) / 1000


def write_data(data: Mapping[str, Any]) -> None:
    """Replace the package's file."""
    DATA.write_text(json.dumps(data, indent=1) + "\n")
