"""What a suite's rows say of the estimates: errors by level and counter, and where to look next."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.live.beside import KINDS, PEAK, Computed, Kind, Line

WORST: Final = 5
"""Cases that are shown by name."""
LEVELS: Final[tuple[Computed, ...]] = ("formula", "trace")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A case that ran, beside its estimates."""

    name: str
    settles: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors of the peaks at one level, of one counter; fractions of what was measured."""

    level: Computed
    kind: Kind
    num_cases: int
    median: float
    p95: float
    worst: float
    worst_name: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """A phase of a case whose estimate is off."""

    name: str
    settles: str
    level: Computed
    line: Line
    error: float


def errors_of(judged: Sequence[Judged]) -> tuple[Errors, ...]:
    """By level and counter, where there is any."""
    return tuple(_errors(judged))


def _errors(judged: Sequence[Judged]) -> Iterator[Errors]:
    for level in LEVELS:
        for kind in KINDS:
            found = [
                (error, case.name)
                for case in judged
                for line in case.lines
                if (line.phase, line.kind) == (PEAK, kind)
                and (error := line.error(level)) is not None
            ]
            if not found:
                continue
            found.sort(key=lambda one: abs(one[0]))
            sizes = [abs(error) for error, _ in found]
            yield Errors(
                level=level,
                kind=kind,
                num_cases=len(found),
                median=statistics.median(sizes),
                p95=sizes[math.ceil(0.95 * len(sizes)) - 1],
                worst=found[-1][0],
                worst_name=found[-1][1],
            )


def look_next(judged: Sequence[Judged]) -> tuple[Look, ...]:
    """Phases whose allocated bytes are furthest off, by the best level that there is of each.

    Allocated is what the estimates compute; reserved and device follow from it.
    """
    found = [look for case in judged if (look := _worst(case)) is not None]
    return tuple(sorted(found, key=lambda look: -abs(look.error))[:WORST])


def _worst(case: Judged) -> Look | None:
    level: Computed = "trace" if any(line.trace_bytes for line in case.lines) else "formula"
    lines = [line for line in case.lines if line.kind == "allocated" and line.phase != PEAK]
    largest = max((line.measured_bytes for line in lines), default=0)
    looks = [
        Look(name=case.name, settles=case.settles, level=level, line=line, error=error)
        for line in lines
        if (error := line.error(level)) is not None and line.measured_bytes * 2 >= largest
    ]
    return max(looks, key=lambda look: abs(look.error), default=None)
