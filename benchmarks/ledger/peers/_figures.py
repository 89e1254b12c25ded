"""Figures of a tool over a source, and the file in which they are recorded for the page."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from benchmarks.ledger.peers._comparing import Comparison

RECORDED: Final = Path(__file__).with_name("recorded.json")
"""``{"figures": [...]}``: of each tool and source, those of the last run over it."""


@dataclass(frozen=True, kw_only=True)
class PeerFigure:
    """Errors of one tool over one source; fractions of the measured bytes."""

    peer: str
    source: str
    rows: int
    """Measurements that it was asked about."""
    expressed: int
    """Those that it has a figure for: all that follows is of these."""
    median: float | None
    p95: float | None
    worst: float | None
    bias: float | None
    """Median of the signed errors."""
    willfit_formula_median: float | None
    """willfit's on the same measurements; None where it has none of them."""
    willfit_trace_median: float | None
    counters: tuple[str, ...] = ()
    """Counters that were measured."""
    willfit_formula_expressed: int = 0
    willfit_trace_expressed: int = 0
    reasons: tuple[tuple[str, int], ...] = ()
    """Why it has no figure, and how often."""


ALL: Final = "all"
"""Stands for every source together: medians over sources, each weighing the same."""


def figures(comparisons: Sequence[Comparison]) -> list[PeerFigure]:
    """One per tool and source, sorted; then one per tool over all of them."""
    key = lambda one: (one.peer, one.source)  # noqa: E731 - a key used twice
    found = [
        _figure(peer, source, list(members))
        for (peer, source), members in groupby(sorted(comparisons, key=key), key=key)
    ]
    return _with_overall(found)


def _with_overall(found: Sequence[PeerFigure]) -> list[PeerFigure]:
    by_peer = [list(members) for _, members in groupby(found, key=lambda one: one.peer)]
    return [*found, *map(_overall, by_peer)]


def _overall(sources: Sequence[PeerFigure]) -> PeerFigure:
    """Sources together, each weighing the same, as `benchmarks.ledger.summary.overall` has it."""
    used = [one for one in sources if one.expressed]

    def middle(values: Iterable[float | None]) -> float | None:
        return _median([value for value in values if value is not None])

    worst = [one.worst for one in used if one.worst is not None]
    counts: Counter[str] = Counter()
    for one in sources:
        counts.update(dict(one.reasons))
    return PeerFigure(
        peer=sources[0].peer,
        source=ALL,
        rows=sum(one.rows for one in sources),
        expressed=sum(one.expressed for one in sources),
        median=middle(one.median for one in used),
        p95=middle(one.p95 for one in used),
        worst=max(worst, key=abs) if worst else None,
        bias=middle(one.bias for one in used),
        willfit_formula_median=middle(one.willfit_formula_median for one in used),
        willfit_trace_median=middle(one.willfit_trace_median for one in used),
        counters=tuple(sorted({counter for one in used for counter in one.counters})),
        willfit_formula_expressed=sum(one.willfit_formula_expressed for one in used),
        willfit_trace_expressed=sum(one.willfit_trace_expressed for one in used),
        reasons=_ordered(counts),
    )


def _figure(peer: str, source: str, members: Sequence[Comparison]) -> PeerFigure:
    expressed = [one for one in members if one.error is not None]
    errors = [one.error for one in expressed if one.error is not None]
    sizes = sorted(map(abs, errors))
    formula = [abs(one.formula_error) for one in expressed if one.formula_error is not None]
    trace = [abs(one.trace_error) for one in expressed if one.trace_error is not None]
    return PeerFigure(
        peer=peer,
        source=source,
        rows=len(members),
        expressed=len(expressed),
        median=_median(sizes),
        p95=sizes[math.ceil(0.95 * len(sizes)) - 1] if sizes else None,
        worst=max(errors, key=abs) if errors else None,
        bias=_median(errors),
        willfit_formula_median=_median(formula),
        willfit_trace_median=_median(trace),
        counters=tuple(sorted({one.counter for one in expressed})),
        willfit_formula_expressed=len(formula),
        willfit_trace_expressed=len(trace),
        reasons=_reasons(members),
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _reasons(members: Sequence[Comparison]) -> tuple[tuple[str, int], ...]:
    return _ordered(Counter(one.reason for one in members if one.reason is not None))


def _ordered(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def record(found: Sequence[PeerFigure], path: Path = RECORDED) -> None:
    """Write the figures, fractions to four digits; those of tools and sources not asked stay."""
    by_key = {(one.peer, one.source): one for one in [*recorded(path), *found]}
    ordered = [by_key[key] for key in sorted(by_key) if key[1] != ALL]
    lines = [_plain(one) for one in _with_overall(ordered)]
    path.write_text(json.dumps({"figures": lines}, indent=1) + "\n")


def _plain(figure: PeerFigure) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(figure).items()
    }


def recorded(path: Path = RECORDED) -> list[PeerFigure]:
    """The figures of the last run over each source; [] where none was kept."""
    if not path.is_file():
        return []
    return [
        PeerFigure(
            **{
                **one,
                "counters": tuple(one["counters"]),
                "reasons": tuple((reason, count) for reason, count in one["reasons"]),
            }
        )
        for one in json.loads(path.read_text())["figures"]
    ]
