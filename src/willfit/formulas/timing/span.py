"""A time as a range: the fast end, what is expected, the slow end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Span:
    """Seconds (or a rate) with both ends of their range; ``low`` is the smaller number."""

    low: float
    nominal: float
    high: float

    def __add__(self, other: Span) -> Span:
        """One after the other: ends add up."""
        return Span(
            low=self.low + other.low,
            nominal=self.nominal + other.nominal,
            high=self.high + other.high,
        )

    def times(self, factor: float) -> Span:
        """The span of ``factor`` such things in a row."""
        return Span(low=self.low * factor, nominal=self.nominal * factor, high=self.high * factor)

    def rate(self, amount: float) -> Span:
        """``amount`` per such time: the slow end becomes the low one; 0 s is an endless rate."""
        return Span(
            low=_per(amount, self.high),
            nominal=_per(amount, self.nominal),
            high=_per(amount, self.low),
        )


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else float("inf")


ZERO = Span(low=0.0, nominal=0.0, high=0.0)
