"""A time as a range: the fast end, what is expected, the slow end."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """Seconds (or a rate) with both ends of their range; ``low`` is the smaller number."""

    low: float
    nominal: float
    high: float

    def plus(self, other: Span) -> Span:
        """One after the other: ends add up."""
        return Span(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def times(self, factor: float) -> Span:
        """The span of ``factor`` such things in a row."""
        return Span(self.low * factor, self.nominal * factor, self.high * factor)

    def rate(self, amount: float) -> Span:
        """``amount`` per such time: the slow end becomes the low one; 0 s is an endless rate."""
        return Span(_per(amount, self.high), _per(amount, self.nominal), _per(amount, self.low))


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else float("inf")
