"""The uncertainty that `estimate` prints, made of the ledger: each source left out in turn.

For a kind of work at a level, how far measurements lie below and above the estimate (beyond what
unknown settings explain) is taken over sources that weigh the same, so that `PART` of them is
inside on either side. A source that is left out is held to the figures of the others.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from benchmarks.ledger.row import Known, Outcome
from willfit.results import Level

PART: Final = 0.975
"""Of the measurements on each side: 95 % inside."""
TIERS: Final = ("A", "B")
"""Tier C is coarse: gigabytes without a tool's name say little about an error of 5 %."""
LEVELS: Final[tuple[Level, ...]] = ("formula", "trace")
WORKS: Final = ("loading", "inference", "training", "several")
LEAST: Final = 0.01
"""No side is narrower: drivers, workspaces and kernels' scratch differ by that."""
FEWEST_SOURCES: Final = 3
"""Of a kind of work, or all kinds of the level count."""
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
    num_rows: int
    num_inside: int
    half_width: float
    """Median over its rows, as part of the estimate; unknown settings included."""


Key = tuple[Level, str, str]
"""Level, counter, kind of work."""
COUNTERS: Final = ("allocated", "reserved")


def parts(outcomes: Iterable[Outcome]) -> dict[Key, Parts]:
    """By level, counter and kind of work."""
    usable = [outcome for outcome in outcomes if _is_usable(outcome)]
    found: dict[Key, Parts] = {}
    for level, counter in product(LEVELS, COUNTERS):
        both = [o for o in usable if o.level == level and o.counter == counter]
        for work in WORKS:
            of_work = [outcome for outcome in both if outcome.work == work]
            enough = len({outcome.source for outcome in of_work}) >= FEWEST_SOURCES
            found[level, counter, work] = _parts(of_work if enough else both)
    return found


def _is_usable(outcome: Outcome) -> bool:
    return outcome.tier in TIERS and outcome.error is not None and bool(outcome.work)


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
    total = 0.0
    for source, value in values:
        total += 1 / counts[source] / len(counts)
        if total >= PART - 1e-9:
            return max(value, LEAST)
    return max(values[-1][1], LEAST)


def leave_one_out(outcomes: Sequence[Outcome]) -> list[LeftOut]:
    """Every source against the ranges that all others give."""
    usable = [outcome for outcome in outcomes if _is_usable(outcome)]
    found: list[LeftOut] = []
    for source in sorted({outcome.source for outcome in usable}):
        others = parts(outcome for outcome in usable if outcome.source != source)
        for level in LEVELS:
            mine = [o for o in usable if (o.source, o.level) == (source, level)]
            if mine:
                found.append(_held(source, level, mine, others))
    return found


def _held(
    source: str, level: Level, mine: Sequence[Outcome], others: Mapping[Key, Parts]
) -> LeftOut:
    inside, widths = 0, []
    for outcome in mine:
        part = others[level, str(outcome.counter), str(outcome.work)]
        below, above = _beyond(outcome)
        inside += below <= part.below and above <= part.above
        unknown = (outcome.unknown_high_bytes or 0) - (outcome.unknown_low_bytes or 0)
        own = (part.below + part.above) * outcome.wider
        widths.append((unknown / (outcome.estimated_bytes or 1) + own) / 2)
    return LeftOut(
        source=source,
        level=level,
        num_rows=len(mine),
        num_inside=inside,
        half_width=statistics.median(widths),
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
        "seen_sm": sorted(seen_sm),
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
