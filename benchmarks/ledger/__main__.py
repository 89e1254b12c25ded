"""``python -m benchmarks.ledger``: every published row beside willfit's estimates.

Prints the errors by source. For all sources at both levels of the published rows it also writes
``docs/accuracy.md`` and its picture; ``--page`` names another place. ``--ranges`` makes the
uncertainty that ``estimate`` prints anew from what was judged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from benchmarks.ledger.compact import write as write_compact
from benchmarks.ledger.figures import record
from benchmarks.ledger.judging import generation_of
from benchmarks.ledger.page import write_page
from benchmarks.ledger.peers import recorded
from benchmarks.ledger.ranges import data_of, seen_sm, write_data
from benchmarks.ledger.row import Outcome
from benchmarks.ledger.run import judge_all, rows_of
from benchmarks.ledger.summary import Summary, summarise
from willfit.results import Level

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are those of the catalogue, never downloads
_PROJECT: Final = Path(__file__).resolve().parents[2]
DEFAULT_ROWS: Final = _PROJECT.parent / "shared" / "measured"
PAGE: Final = _PROJECT / "docs" / "accuracy.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ledger; prints a table, writes the rows with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--rows", type=Path, help="folder of .jsonl files (the published rows)")
    parser.add_argument("--json", type=Path, help="write every row here")
    parser.add_argument("--level", choices=("formula", "trace", "both"), default="both")
    parser.add_argument("--sample", type=int, metavar="N", help="trace N rows of a source at most")
    parser.add_argument("--source", action="append", help="only this source (repeatable)")
    parser.add_argument("--jobs", type=int, help="processes (as many as CPUs by default)")
    parser.add_argument("--no-cache", action="store_true", help="judge every row again")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the worst N rows")
    parser.add_argument("--page", type=Path, help="write the page here (docs/accuracy.md)")
    parser.add_argument("--ranges", action="store_true", help="make the printed uncertainty anew")
    parser.add_argument("--record", action="store_true", help="write the project's own rows anew")
    arguments = parser.parse_args(argv)
    folder = arguments.rows or DEFAULT_ROWS
    if not folder.is_dir():
        print(f"no folder {folder}: give one with --rows", file=sys.stderr)
        return 1
    if arguments.ranges and (arguments.source or arguments.level != "both"):
        print("--ranges needs all sources at both levels", file=sys.stderr)
        return 1
    both: tuple[Level, ...] = ("formula", "trace")
    levels = tuple(level for level in both if arguments.level in (level, "both"))
    rows = list(rows_of(folder, arguments.source))
    judged = judge_all(
        rows,
        levels,
        sample=arguments.sample,
        jobs=arguments.jobs,
        cached=not arguments.no_cache,
        progress=sys.stderr,
    )
    outcomes = judged.outcomes
    print(render(outcomes, arguments.worst))
    if arguments.json:
        write_json(arguments.json, outcomes)
    if arguments.ranges:
        write_data(data_of(outcomes, seen_sm(judged.known)))
    if arguments.record:
        write_compact((row, generation_of(row)) for row in rows if not row.get("events"))
        record(outcomes, rows)
    published = arguments.rows is None and not arguments.source and arguments.level == "both"
    page = arguments.page or (PAGE if published else None)
    if page is not None:
        write_page(judged, recorded(), page, arguments.sample)
    return 0


FIELDS: Final = (
    "id", "source", "tier", "task", "level", "kind", "measured_bytes", "estimated_bytes",
    "low_bytes", "high_bytes", "reason",
)  # fmt: skip
"""What ``--json`` has of an outcome: scripts depend on it."""


def write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    """``{"rows": [...]}``, one object per measurement and level."""
    rows = [{name: getattr(outcome, name) for name in FIELDS} for outcome in outcomes]
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def render(outcomes: Sequence[Outcome], worst: int) -> str:
    """The table by source and kind, then the reasons of what is not expressed."""
    key = lambda outcome: (outcome.level, outcome.source, outcome.kind)  # noqa: E731 - used twice
    groups = [
        (f"{source} by {level}", kind, list(members))
        for (level, source, kind), members in groupby(sorted(outcomes, key=key), key=key)
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
