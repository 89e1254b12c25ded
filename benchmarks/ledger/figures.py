"""The recorded figures of a subset of rows, which a test holds every later state to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.ledger.judging import source_of
from benchmarks.ledger.row import Outcome, PublishedRow
from benchmarks.ledger.summary import summarise
from willfit.results import Level

FILE: Final = Path(__file__).parents[2] / "tests" / "data" / "measured" / "figures.json"
MOST_BY_FORMULA: Final = 24
"""Rows of a source in the subset."""


def subset(rows: Iterable[PublishedRow], most: int = MOST_BY_FORMULA) -> list[PublishedRow]:
    """So many rows of each source, by a digest of their ids: the same ones each time."""
    found: dict[str, list[PublishedRow]] = {}
    for row in sorted(rows, key=_digest):
        members = found.setdefault(source_of(row), [])
        if len(members) < most:
            members.append(row)
    return [row for source in sorted(found) for row in found[source]]


def _digest(row: PublishedRow) -> str:
    return hashlib.sha256(str(row["id"]).encode()).hexdigest()


def figures(outcomes: Sequence[Outcome], level: Level) -> dict[str, dict[str, Any]]:
    """By source: rows, those expressed, median and 95th percentile; errors to a ten-thousandth."""
    found = {}
    for source in sorted({outcome.source for outcome in outcomes}):
        members = [o for o in outcomes if (o.source, o.level) == (source, level)]
        summary = summarise(source, "", members)
        found[source] = {
            "rows": summary.num_rows,
            "expressed": summary.num_expressed,
            "median": _rounded(summary.median),
            "p95": _rounded(summary.p95),
        }
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def record(outcomes: Sequence[Outcome], rows: Iterable[PublishedRow], path: Path = FILE) -> None:
    """Write the figures of the subset."""
    chosen = {row["id"] for row in subset(rows)}
    members = [o for o in outcomes if o.id in chosen and o.level == "formula"]
    path.write_text(json.dumps({"formula": figures(members, "formula")}, indent=1) + "\n")


def recorded(path: Path = FILE) -> Mapping[str, Any]:
    """What was recorded."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
