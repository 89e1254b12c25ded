"""``python -m benchmarks.ledger``: estimate every published row and print the errors by source."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Final

from benchmarks.ledger.amounts import estimated
from benchmarks.ledger.importers import IMPORTERS
from benchmarks.ledger.row import Expressed, NotExpressed, Outcome, PublishedRow
from benchmarks.ledger.summary import Summary, summarise
from willfit.errors import WillfitError
from willfit.live.rows import read_rows
from willfit.results import Level

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are those of the catalogue, never downloads
DEFAULT_ROWS: Final = Path(__file__).resolve().parents[3] / "shared" / "measured"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ledger; prints a table, writes the rows with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--rows", type=Path, default=DEFAULT_ROWS, help="folder of .jsonl files")
    parser.add_argument("--json", type=Path, help="write every row here")
    parser.add_argument("--level", choices=("formula", "trace", "both"), default="formula")
    parser.add_argument("--source", action="append", help="only this source (repeatable)")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the worst N rows")
    arguments = parser.parse_args(argv)
    if not arguments.rows.is_dir():
        print(f"no folder {arguments.rows}: give one with --rows", file=sys.stderr)
        return 1
    both: tuple[Level, ...] = ("formula", "trace")
    levels = tuple(level for level in both if arguments.level in (level, "both"))
    outcomes = [
        outcome
        for level in levels
        for outcome in judge_folder(arguments.rows, arguments.source, level)
    ]
    print(render(outcomes, arguments.worst))
    if arguments.json:
        rows = {"rows": [asdict(outcome) for outcome in outcomes]}
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def judge_folder(
    folder: Path, sources: Sequence[str] | None = None, level: Level = "formula"
) -> list[Outcome]:
    """Outcomes of every row of the sources that an importer knows at this level."""
    outcomes: list[Outcome] = []
    for path in sorted(folder.glob("*.jsonl")):
        source = _source_of(path, level)
        if source is not None and (not sources or source in sources):
            for row in read_rows(path):
                if _file_of(row) in IMPORTERS[level]:
                    outcomes.extend(judge(row, level))
    return outcomes


def _source_of(path: Path, level: Level) -> str | None:
    """By the file's name, or by its rows' ids where a user named the file; None for no importer."""
    if path.stem in IMPORTERS[level]:
        return path.stem
    first = next(read_rows(path), {"id": ""})
    found = str(first.get("id", "")).partition(":")[0]
    return found if found in IMPORTERS[level] else None


def judge(row: PublishedRow, level: Level = "formula") -> Iterator[Outcome]:
    """One outcome per measured kind of a row."""
    measured = {entry["kind"]: int(entry["bytes"]) for entry in row["measured"]}
    for result in _expressed(row, level):
        if result.kind not in measured:
            continue
        nominal = low = high = reason = None
        if isinstance(result, Expressed):
            try:
                nominal, low, high = estimated(result, level)
            except WillfitError as error:
                reason = str(error)
        else:
            reason = result.reason
        yield Outcome(
            id=row["id"],
            source=_file_of(row),
            tier=row["tier"],
            task=row["task"],
            level=level,
            kind=result.kind,
            measured_bytes=measured[result.kind],
            estimated_bytes=nominal,
            low_bytes=low,
            high_bytes=high,
            reason=reason,
        )


def _file_of(row: PublishedRow) -> str:
    """Name of the row's file, which its id begins with; ``source`` may be more particular."""
    return str(row["id"]).partition(":")[0]


def _expressed(row: PublishedRow, level: Level) -> list[Expressed | NotExpressed]:
    """The importer's results; a model that no source knows offline is a reason, not an end."""
    try:
        return list(IMPORTERS[level][_file_of(row)](row))
    except WillfitError as error:
        return [NotExpressed(kind=entry["kind"], reason=str(error)) for entry in row["measured"]]


def render(outcomes: Sequence[Outcome], worst: int) -> str:
    """The table by source and kind, then the reasons of what is not expressed."""
    key = lambda outcome: (outcome.source, outcome.kind)  # noqa: E731 - a key used twice
    groups = [
        (source, kind, list(members))
        for (source, kind), members in groupby(sorted(outcomes, key=key), key=key)
    ]
    lines = [
        f"{'source · what was measured':64} {'rows':>5} {'expr.':>5} {'median':>7} {'p95':>7}"
        f" {'worst':>8} {'bias':>7}"
    ]
    for source, kind, members in groups:
        lines.append(_line(summarise(source, kind, members)))
        ranked = sorted(
            (o for o in members if o.error is not None), key=lambda o: -abs(o.error or 0)
        )
        lines += [
            f"    {outcome.error or 0:+7.1%}  {outcome.id}  estimated "
            f"{outcome.estimated_bytes:,} measured {outcome.measured_bytes:,}"
            for outcome in ranked[:worst]
        ]
        lines += _reasons(members)
    return "\n".join(lines)


def _line(summary: Summary) -> str:
    def percent(value: float | None, sign: str = "") -> str:
        return "n/a" if value is None else format(value, f"{sign}.1%")

    title = f"{summary.source} · {summary.kind}"
    return (
        f"{title[:64]:64} {summary.num_rows:5} {summary.num_expressed:5}"
        f" {percent(summary.median):>7} {percent(summary.p95):>7}"
        f" {percent(summary.worst, '+'):>8} {percent(summary.bias, '+'):>7}"
    )


def _reasons(members: Sequence[Outcome]) -> list[str]:
    counts: dict[str, int] = {}
    for outcome in members:
        if outcome.reason is not None:
            counts[outcome.reason] = counts.get(outcome.reason, 0) + 1
    return [f"    not expressed ×{count}: {reason}" for reason, count in counts.items()]


if __name__ == "__main__":
    sys.exit(main())
