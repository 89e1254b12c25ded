"""Lengths of the user's samples in tokens, as a histogram: what memory and time are asked about."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Final

SAMPLES: Final = (512, 2048, 8192, 16_384)
"""Lengths that stand for a larger data set in a workload: as few as keep the mean."""
SAME_MEAN: Final = 0.005
"""Relative change of the mean that a sample may bring."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How many samples have which length."""

    values: tuple[int, ...]
    """Lengths in tokens that occur, ascending."""
    counts: tuple[int, ...]
    """Samples of each of them."""

    @staticmethod
    def of(lengths: Iterable[int]) -> Lengths:
        """Histogram of lengths in any order."""
        counts: dict[int, int] = {}
        for length in lengths:
            counts[length] = counts.get(length, 0) + 1
        return Lengths.from_counts(counts)

    @staticmethod
    def from_counts(counts: Mapping[int, int]) -> Lengths:
        """From a count by length; raises `ValueError` where there is none."""
        if not counts:
            raise ValueError("no lengths")
        values = tuple(sorted(counts))
        return Lengths(values=values, counts=tuple(counts[value] for value in values))

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Samples of at most each length: the cumulative histogram."""
        return tuple(accumulate(self.counts))

    @property
    def num_samples(self) -> int:
        """Rows of the data."""
        return self.ends[-1]

    @cached_property
    def num_tokens(self) -> int:
        """Σ length: tokens of one epoch without padding."""
        return sum(value * count for value, count in zip(self.values, self.counts, strict=True))

    @property
    def mean(self) -> float:
        """Tokens of a sample on average."""
        return self.num_tokens / self.num_samples

    @property
    def longest(self) -> int:
        """The longest sample, which decides memory."""
        return self.values[-1]

    def at(self, rank: int) -> int:
        """The length at a rank, from 0 for the shortest."""
        return self.values[bisect_left(self.ends, rank + 1)]

    def quantile(self, share: float) -> int:
        """The smallest length that at least this share of the samples does not exceed."""
        return self.at(max(math.ceil(share * self.num_samples), 1) - 1)

    def num_above(self, limit: int) -> int:
        """Samples longer than ``limit``: what ``max_length`` would cut."""
        return sum(c for v, c in zip(self.values, self.counts, strict=True) if v > limit)

    def cut(self, limit: int | None) -> Lengths:
        """The same samples truncated to ``limit`` tokens."""
        if limit is None or limit >= self.longest:
            return self
        below = bisect_left(self.values, limit)
        kept = dict(zip(self.values[:below], self.counts[:below], strict=True))
        return Lengths.from_counts({**kept, limit: self.num_samples - sum(kept.values())})

    def sample(self) -> tuple[int, ...]:
        """A few hundred lengths, ascending, that stand for all of them; all where they are few.

        More where one very long sample would otherwise stand for too many: up to 16,384.
        """
        for most in SAMPLES:
            chosen = self.strata(most)
            if abs(sum(chosen) / len(chosen) / self.mean - 1) <= SAME_MEAN:
                break
        return chosen

    def strata(self, most: int) -> tuple[int, ...]:
        """One length for each of ``most`` equal strata: a rank is off by 1/most at most.

        The shortest and the longest are as they are, the others within their stratum and such that
        the mean stays, which the longest alone, standing for its whole stratum, would raise.
        """
        if self.num_samples <= most:
            return tuple(
                value
                for value, count in zip(self.values, self.counts, strict=True)
                for _ in range(count)
            )
        return tuple(reversed(self._from_the_longest(most)))

    def _from_the_longest(self, most: int) -> list[int]:
        """From the longest down; what one stratum has too much the next ones have less."""
        totals = (0, *accumulate(v * c for v, c in zip(self.values, self.counts, strict=True)))
        bounds = [self.num_samples * i // most for i in range(most + 1)]
        chosen: list[int] = []
        excess = 0.0
        for start, stop in reversed(list(pairwise(bounds))):
            low, high = self.at(start), self.at(stop - 1)
            mean = (self._sum_to(stop, totals) - self._sum_to(start, totals)) / (stop - start)
            wanted = high if not chosen else low if start == 0 else round(mean - excess)
            chosen.append(min(max(wanted, low), high))
            excess += chosen[-1] - mean
        return chosen

    def _sum_to(self, rank: int, totals: tuple[int, ...]) -> int:
        """Tokens of the ``rank`` shortest samples."""
        index = bisect_left(self.ends, rank)
        before = self.ends[index - 1] if index else 0
        return totals[index] + (rank - before) * self.values[index]
