"""Powers of two: the values that batch sizes, lengths and ranks are halved and doubled to."""

from __future__ import annotations


def powers(smallest: int, largest: int) -> tuple[int, ...]:
    """Powers of two from the largest down to the smallest, both included."""
    exponents = range(largest.bit_length() - 1, smallest.bit_length() - 2, -1)
    return tuple(1 << exponent for exponent in exponents)
