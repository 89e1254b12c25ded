"""Half-open ranges of positions: where shards are cut, which are done, what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

NUM_SHARDS: Final = 100
"""Shards of a stage where nothing else is said: of 9 hours, 5 minutes are lost with one."""
FEWEST_TOKENS: Final = 16_384
"""Tokens below which a shard of a model is not cut: two to twenty seconds of a T4 (8B to 1B)."""
MOST_ROWS: Final = 50_000
"""Rows above which a shard is cut: results are held in memory until its file is written."""


class Range(NamedTuple):
    """Positions ``start`` to ``stop``, without ``stop``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}–{self.stop - 1}"


def boundaries(
    work: npt.NDArray[np.int64], *, shards: int | None = None, fewest: int = FEWEST_TOKENS
) -> tuple[int, ...]:
    """Cuts 0 = c₀ < c₁ < … = number of rows, so that shards have about equal work.

    ``work``: tokens of each position (ones where rows have none); ``shards``: how many are wanted;
    by default `NUM_SHARDS`, but none of less than ``fewest``. None has more than `MOST_ROWS` rows.
    """
    count = len(work)
    if count == 0:
        return (0,)
    total = np.cumsum(work, dtype=np.int64)
    wanted = shards if shards is not None else max(1, min(NUM_SHARDS, int(total[-1]) // fewest))
    wanted = min(wanted, count)
    marks = total[-1] * np.arange(1, wanted, dtype=np.float64) / wanted
    cuts = {0, count, *(int(cut) + 1 for cut in np.searchsorted(total, marks))}
    ordered = sorted(cut for cut in cuts if cut <= count)
    return tuple(sorted({cut for pair in itertools.pairwise(ordered) for cut in _steps(*pair)}))


def _steps(start: int, stop: int) -> Iterable[int]:
    """``start``, ``stop``, and what is needed between them for `MOST_ROWS`."""
    parts = -(-(stop - start) // MOST_ROWS)
    return (start + (stop - start) * part // parts for part in range(parts + 1))


def disjoint(ranges: Iterable[Range]) -> list[Range]:
    """Ranges of which none overlaps an earlier one: by start, the longer first."""
    chosen: list[Range] = []
    for found in sorted(ranges, key=lambda r: (r.start, -r.stop)):
        if found.size > 0 and (not chosen or found.start >= chosen[-1].stop):
            chosen.append(found)
    return chosen


def gaps(done: Sequence[Range], total: int) -> list[Range]:
    """What no range of ``done`` (disjoint, in order) covers of 0 to ``total``."""
    edges = [0, *(edge for found in done for edge in found), total]
    return [Range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def pieces(missing: Sequence[Range], cuts: Sequence[int]) -> list[Range]:
    """The missing ranges, split where shards are cut."""
    found: list[Range] = []
    for start, stop in missing:
        edges = [start, *(cut for cut in cuts if start < cut < stop), stop]
        found += [Range(a, b) for a, b in itertools.pairwise(edges)]
    return found
