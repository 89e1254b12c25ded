"""``python -m benchmarks.device.read ROWS``: measured beside formula and trace."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.device.recorded import FOLDER, Compared, compare, recorded_from

os.environ.setdefault("HF_HUB_OFFLINE", "1")

KINDS: Final = ("allocated", "reserved", "process")


def main(argv: Sequence[str] | None = None) -> int:
    """Print every case with its errors; write scenarios and probes where the tests find them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device.read", description=__doc__)
    parser.add_argument("rows", type=Path, help="what willfit measure --suite wrote")
    parser.add_argument("--no-trace", action="store_true", help="formulas alone: seconds")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--phases", action="store_true", help="errors of each phase too")
    parser.add_argument("--record", metavar="NAME", help="write NAME.jsonl and NAME_probes.jsonl")
    arguments = parser.parse_args(argv)
    rows = [json.loads(line) for line in arguments.rows.read_text("utf-8").splitlines()]
    if arguments.record:
        _write(rows, arguments.record)
    wanted = [row for row in rows if (arguments.only or "") in row["name"]]
    compared = [
        _shown(row, trace=trace, phases=arguments.phases)
        for row in wanted
        if "phases" in row or "measurement" in row
        for trace in ((False,) if arguments.no_trace else (False, True))
    ]
    for row in wanted:
        if "rows" in row:
            failed = sum("failure" in each for each in row["rows"])
            print(f"{row['name']}: {len(row['rows'])} rows, {failed} refused")
        elif row.get("failure"):
            print(f"{row['name']}: {row['failure'][:150]}")
    for level in ("formula", "trace"):
        for kind in KINDS:
            print(_summary([each for each in compared if each.level == level], level, kind))
    return 0


def _write(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    scenarios = [asdict(recorded_from(row)) for row in rows if row.get("arguments")]
    ran = next(each for each in scenarios if each["device"])
    facts = {key: ran[key] for key in ("gpu", "device", "driver", "versions", "command")}
    probes = [
        {
            "name": row["name"],
            **facts,
            "rows": row.get("rows", []),
            "failure": row.get("failure", ""),
        }
        for row in rows
        if row["name"].startswith("probe/")
    ]
    for file, found in ((name, scenarios), (f"{name}_probes", probes)):
        text = "".join(json.dumps(each) + "\n" for each in found)
        (FOLDER / f"{file}.jsonl").write_text(text, encoding="utf-8")


def _shown(row: Mapping[str, Any], *, trace: bool, phases: bool) -> Compared:
    found = compare(recorded_from(row), trace=trace)
    record = found.record
    errors = "  ".join(f"{kind} {_percent(found.error(kind))}" for kind in KINDS)
    gib = record.most("allocated") / 2**30
    inside = {True: "in range", False: "out of range", None: ""}[found.in_range()]
    said = record.failure[:60] or found.reason[:100]
    print(
        f"{record.name:42.42} {found.level:7} {gib:7.3f} GiB  {errors}  {inside}  {said}",
        flush=True,
    )
    if phases:
        for name in record.phases:
            errors = "  ".join(
                f"{kind} {_percent(found.phase_error(kind, name))}" for kind in KINDS
            )
            amount = (record.phases[name]["allocated"] or 0) / 2**30
            print(f"{'':34}{name:8} {'':7} {amount:7.3f} GiB  {errors}", flush=True)
    return found


def _percent(error: float | None) -> str:
    return "   n/a" if error is None else f"{error:+6.1%}"


def _summary(compared: Sequence[Compared], level: str, kind: str) -> str:
    errors = sorted(
        abs(error)
        for each in compared
        if not each.record.failure and (error := each.error(kind)) is not None
    )
    if not errors:
        return f"{level}, {kind}: no rows"
    high = errors[min(int(0.95 * len(errors)), len(errors) - 1)]
    return (
        f"{level}, {kind}: {len(errors)} rows, median {median(errors):.1%}, p95 {high:.1%}, "
        f"worst {errors[-1]:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
