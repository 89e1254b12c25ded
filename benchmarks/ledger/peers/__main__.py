"""``python -m benchmarks.ledger.peers``: other tools' errors on the published rows, by source."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.ledger.__main__ import DEFAULT_ROWS
from benchmarks.ledger.importers import sources
from benchmarks.ledger.judging import source_of
from benchmarks.ledger.peers import beside, compare, figures, peers, record
from benchmarks.ledger.peers._figures import PeerFigure
from benchmarks.ledger.row import Outcome, PublishedRow
from benchmarks.ledger.run import judge_all, rows_of
from willfit.results import Level

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are those of the catalogue, never downloads
_OURS = "measured"
"""Rows measured with willfit itself are no one's published figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table, and record the figures of the published rows for the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger.peers", description=__doc__)
    parser.add_argument("--rows", type=Path, default=DEFAULT_ROWS, help="folder of .jsonl files")
    parser.add_argument("--json", type=Path, help="write every comparison here")
    parser.add_argument("--source", action="append", help="only this source (repeatable)")
    parser.add_argument("--peer", action="append", help="only this tool (repeatable)")
    parser.add_argument("--fast", action="store_true", help="leave out tools that take minutes")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="trace every row (hours, unless kept); without it those of the slow tools' samples",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes for willfit's own part")
    parser.add_argument("--reasons", action="store_true", help="why a tool has no figure")
    arguments = parser.parse_args(argv)
    if not arguments.rows.is_dir():
        print(f"no folder {arguments.rows}: give one with --rows", file=sys.stderr)
        return 1
    chosen = [
        peer
        for peer in peers()
        if (not arguments.peer or peer.name in arguments.peer)
        and not (arguments.fast and peer.about.slow)
    ]
    rows = [
        row
        for row in rows_of(arguments.rows, arguments.source)
        if source_of(row) in sources() and source_of(row) != _OURS
    ]
    compared = compare(rows, chosen, progress=sys.stderr)
    outcomes = _judged(rows, "formula", arguments.jobs)
    slow = {peer.name for peer in chosen if peer.about.slow}
    sample = {one.id for one in compared if one.peer in slow and one.predicted_bytes is not None}
    traced = [row for row in rows if arguments.trace or row["id"] in sample]
    found = beside(compared, [*outcomes, *_judged(traced, "trace", arguments.jobs)])
    summary = figures(found)
    print(render(summary, reasons=arguments.reasons))
    if arguments.json:
        lines = [{**asdict(one), "error": one.error} for one in found]
        arguments.json.write_text(json.dumps({"rows": lines}, indent=1) + "\n")
    if arguments.rows == DEFAULT_ROWS:
        record(summary)
    return 0


def _judged(rows: Sequence[PublishedRow], level: Level, jobs: int) -> Sequence[Outcome]:
    return judge_all(rows, [level], jobs=jobs, progress=sys.stderr).outcomes


def render(summary: Sequence[PeerFigure], *, reasons: bool = False) -> str:
    """The table by tool and source."""
    lines = [
        f"{'tool · source':58} {'rows':>5} {'expr.':>5} {'median':>7} {'p95':>8} {'worst':>9}"
        f" {'bias':>8} {'formula':>8} {'trace':>8}"
    ]
    for one in summary:
        lines.append(
            f"{f'{one.peer} · {one.source}'[:58]:58} {one.rows:5} {one.expressed:5}"
            f" {_percent(one.median):>7} {_percent(one.p95):>8} {_percent(one.worst, '+'):>9}"
            f" {_percent(one.bias, '+'):>8} {_percent(one.willfit_formula_median):>8}"
            f" {_percent(one.willfit_trace_median):>8}"
        )
        if reasons:
            lines += [f"    ×{count} {reason}" for reason, count in one.reasons]
    return "\n".join(lines)


def _percent(value: float | None, sign: str = "") -> str:
    return "n/a" if value is None else format(value, f"{sign}.1%")


if __name__ == "__main__":
    sys.exit(main())
