"""The range that `estimate` prints, for the amount that a source's counter read."""

from __future__ import annotations

from benchmarks.ledger.amounts import Amounts


def printed_range(amounts: Amounts) -> tuple[int, int]:
    """Low and high bytes: unknown settings, and willfit's own uncertainty on both sides."""
    return amounts.low, amounts.high
