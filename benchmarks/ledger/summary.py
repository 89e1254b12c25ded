"""Figures of a source: rows, expressed, median, 95th percentile, worst, bias."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.ledger.row import Outcome


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Errors of one kind of measurement of one source; fractions of the measured bytes."""

    source: str
    kind: str
    num_rows: int
    num_expressed: int
    median: float | None
    p95: float | None
    worst: float | None
    bias: float | None
    """Median of the signed errors."""


def summarise(source: str, kind: str, outcomes: Sequence[Outcome]) -> Summary:
    """Figures over the outcomes of one source and kind."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    sizes = sorted(abs(error) for error in errors)
    return Summary(
        source=source,
        kind=kind,
        num_rows=len(outcomes),
        num_expressed=len(errors),
        median=statistics.median(sizes) if sizes else None,
        p95=sizes[math.ceil(0.95 * len(sizes)) - 1] if sizes else None,
        worst=max(errors, key=abs) if errors else None,
        bias=statistics.median(errors) if errors else None,
    )
