"""What lengths of real data do to a micro-batch: padding, groups of like length, packing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from willfit.formulas.training.padding import MEGA_BATCHES, all_within


@dataclass(frozen=True, kw_only=True)
class Padded:
    """A typical micro-batch."""

    mean: float
    """Mean padded length of a row."""
    root_mean_square: float
    """Square root of the mean squared padded length, which attention goes by."""
    real: float
    """Mean tokens of a row that are data."""

    @property
    def waste(self) -> float:
        """Part of the computed tokens that is padding."""
        return 1.0 - self.real / self.mean if self.mean else 0.0


def of_equal(length: float) -> Padded:
    """Every row of the same length."""
    return Padded(mean=length, root_mean_square=length, real=length)


def padded(
    lengths: Sequence[int], batch: int, limit: int | None, *, grouped: bool, accumulation: int = 1
) -> Padded:
    """Expected micro-batch of ``batch`` rows that are padded to their longest."""
    rows = [min(length, limit) if limit else length for length in lengths]
    real = sum(rows) / len(rows)
    mean, square = expected_longest(rows, batch)
    if grouped:
        by_length, by_square = _grouped(rows, batch, accumulation)
        mean, square = min(mean, by_length), min(square, by_square)
    return Padded(mean=max(mean, real), root_mean_square=square**0.5, real=real)


def expected_longest(lengths: Sequence[int], batch: int) -> tuple[float, float]:
    """(E[max], E[max²]) of ``batch`` rows drawn without replacement, as a random sampler does.

    P(max ≤ x) = C(#(≤ x), B) / C(n, B); exact from the histogram.
    """
    total = len(lengths)
    batch = min(batch, total)
    mean = square = before = 0.0
    below = 0
    for length, count in sorted(Counter(lengths).items()):
        below += count
        chance = all_within(below, total, batch)
        mean += length * (chance - before)
        square += length * length * (chance - before)
        before = chance
    return mean, square


def _grouped(lengths: Sequence[int], batch: int, accumulation: int) -> tuple[float, float]:
    """(E[longest], E[longest²]) of rows sorted within blocks of 50 micro-batches.

    The longest of the j-th micro-batch of a block of M rows is the (M − jB)-th smallest of them,
    which is about the (M − jB)/(M + 1) quantile of all lengths.
    """
    ordered = sorted(lengths)
    group = batch * accumulation
    block = min(max(len(ordered) // (4 * group), 1), MEGA_BATCHES) * group
    block = min(block, len(ordered))
    longest = [
        _quantile(ordered, (block - first) / (block + 1)) for first in range(0, block, batch)
    ]
    count = len(longest)
    return sum(longest) / count, sum(x * x for x in longest) / count


def _quantile(ordered: Sequence[int], part: float) -> float:
    """The value at this part of the sorted values, between two of them by proportion."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def packed(lengths: Sequence[int], row_len: int) -> tuple[float, float]:
    """(samples per row, root mean square length that attention sees) of packed rows.

    Rows are taken to be full, as best-fit-decreasing packing nearly makes them.
    """
    rows = [min(length, row_len) for length in lengths]
    total = sum(rows)
    squares = sum(length * length for length in rows)
    return row_len * len(rows) / total, (squares / total * row_len) ** 0.5
