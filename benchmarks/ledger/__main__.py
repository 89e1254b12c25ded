"""``python -m benchmarks.ledger``: estimate every published row and print the errors by source."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from benchmarks.ledger.row import Outcome
from benchmarks.ledger.run import judge_all, rows_of
from benchmarks.ledger.summary import Summary, summarise
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
    parser.add_argument("--jobs", type=int, help="processes (as many as CPUs by default)")
    parser.add_argument("--no-cache", action="store_true", help="judge every row again")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the worst N rows")
    arguments = parser.parse_args(argv)
    if not arguments.rows.is_dir():
        print(f"no folder {arguments.rows}: give one with --rows", file=sys.stderr)
        return 1
    both: tuple[Level, ...] = ("formula", "trace")
    levels = tuple(level for level in both if arguments.level in (level, "both"))
    judged = judge_all(
        list(rows_of(arguments.rows, arguments.source)),
        levels,
        jobs=arguments.jobs,
        cached=not arguments.no_cache,
        progress=sys.stderr,
    )
    outcomes = judged.outcomes
    print(render(outcomes, arguments.worst))
    if arguments.json:
        write_json(arguments.json, outcomes)
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
