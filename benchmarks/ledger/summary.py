"""Figures over outcomes: of a source, over sources that weigh the same, and of repeats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

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
    alone: float | None = None
    """Median of the likeliest scenario's own error, where unknowns have ranges."""


def summarise(source: str, kind: str, outcomes: Sequence[Outcome]) -> Summary:
    """Figures over the outcomes of one source and kind."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    alone = [abs(outcome.alone) for outcome in outcomes if outcome.alone is not None]
    sizes = sorted(map(abs, errors))
    return Summary(
        source=source,
        kind=kind,
        num_rows=len(outcomes),
        num_expressed=len(errors),
        median=statistics.median(sizes) if sizes else None,
        p95=percentile(sizes, 0.95) if sizes else None,
        worst=max(errors, key=abs) if errors else None,
        bias=statistics.median(errors) if errors else None,
        alone=statistics.median(alone) if alone else None,
    )


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that is no less than so many of them."""
    return ordered[math.ceil(part * len(ordered)) - 1]


def by_source(outcomes: Iterable[Outcome]) -> list[Summary]:
    """One summary per source, over all that it measured."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.source)
    return [
        summarise(source, "", list(members))
        for source, members in groupby(ordered, key=lambda outcome: outcome.source)
    ]


@dataclass(frozen=True, kw_only=True)
class Overall:
    """Sources together, each weighing the same whatever its number of rows."""

    num_sources: int
    """Sources with an expressed row."""
    num_rows: int
    num_expressed: int
    median: float | None
    """Median over sources of the median error."""
    p95: float | None
    """Median over sources of the 95th percentile."""

    @property
    def part_expressed(self) -> float:
        """Expressed of all measurements."""
        return self.num_expressed / self.num_rows if self.num_rows else 0.0


def overall(summaries: Sequence[Summary]) -> Overall:
    """Over sources."""
    medians = [summary.median for summary in summaries if summary.median is not None]
    tails = [summary.p95 for summary in summaries if summary.p95 is not None]
    return Overall(
        num_sources=len(medians),
        num_rows=sum(summary.num_rows for summary in summaries),
        num_expressed=sum(summary.num_expressed for summary in summaries),
        median=statistics.median(medians) if medians else None,
        p95=statistics.median(tails) if tails else None,
    )


def best_of(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Each measurement once: by trace where it is expressed there, else by formula."""
    best: dict[tuple[str, str], Outcome] = {}
    for outcome in outcomes:
        key = (outcome.id, outcome.kind)
        other = best.get(key)
        better = outcome.level == "trace" and outcome.error is not None
        if other is None or other.error is None or better:
            best[key] = outcome
    return list(best.values())


def noise(outcomes: Iterable[Outcome]) -> float | None:
    """How far repeats of an experiment lie apart: (largest − smallest) / median.

    The median over the experiments that were repeated; None where none was. No estimate that knows
    the settings alone can be nearer than half of it in every row.
    """
    groups: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.experiment, {})[outcome.id] = outcome.measured_bytes
    spreads = [
        (max(found) - min(found)) / statistics.median(found)
        for found in (list(group.values()) for group in groups.values())
        if len(found) > 1
    ]
    return statistics.median(spreads) if spreads else None
