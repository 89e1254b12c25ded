"""``python -m benchmarks.speed_fit``: the nominal efficiencies, a source left out in turn."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Final

from benchmarks.speed_rows import Row, reading, scenario_of
from benchmarks.throughput import DEFAULT_ROWS, FILE, judge
from willfit.estimator.speed import prepared
from willfit.estimator.timing import timing
from willfit.formulas.timing import rates, work
from willfit.formulas.timing.efficiency import FAST, NOMINAL, SLOW, Efficiency
from willfit.scenario import Scenario

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CHOICES: Final[Mapping[str, Sequence[float]]] = {
    "product": (0.60, 0.68, 0.76, 0.84, 0.92),
    "attention": (0.50, 0.58, 0.67, 0.76, 0.85),
    "memory": (0.60, 0.66, 0.72, 0.78, 0.84),
    "cache": (0.26, 0.29, 0.32, 0.35, 0.38),
    "operator": (12e-6, 14e-6, 16e-6, 18e-6, 20e-6),
    "backward operator": (12e-6, 14e-6, 16e-6, 18e-6, 20e-6),
}
"""Values tried for each constant: few and coarse, as they are to be rounded."""
ONE_STACK: Final = ("torchtune", "torchtitan", "trl_sft_benchmark")
"""Sources that run other code than transformers' modules on one node."""
A_SOURCE: Final = 30
"""Rows of a source and kind that are tried, so that none weighs more than another."""

Values = dict[str, float]
Key = tuple[str, str]


def efficiency(values: Values) -> Efficiency:
    """The nominal efficiency with these constants."""
    compute = {**NOMINAL.compute, "product": values["product"], "dequantized": values["product"],
               "attention": values["attention"]}  # fmt: skip
    memory = {**NOMINAL.memory, "memory": values["memory"], "eager": values["memory"],
              "cache": values["cache"]}  # fmt: skip
    return replace(
        NOMINAL,
        compute=compute,
        memory=memory,
        operator_seconds=values["operator"],
        backward_operator_seconds=values["backward operator"],
    )


def errors(data: Sequence[tuple[Row, Scenario]], values: Values) -> dict[Key, float]:
    """Median |log(ours / published)| by source and kind."""
    levels = (FAST, efficiency(values), SLOW)
    for module in (work, rates):
        setattr(module, "LEVELS", levels)  # noqa: B010 - a constant everywhere but here
    prepared._RATES.clear()
    found: dict[Key, list[float]] = {}
    for row, scenario in data:
        ours = reading(row, timing(scenario)).nominal
        key = (row["source"], row["kind"])
        found.setdefault(key, []).append(abs(math.log(ours / row["value"])))
    return {key: median(each) for key, each in found.items()}


def fit(data: Sequence[tuple[Row, Scenario]], start: Values) -> Values:
    """Each constant in turn, twice over, at its best for the mean over sources."""
    values = dict(start)
    for name in [*CHOICES, *CHOICES]:
        scores = [
            (mean(errors(data, {**values, name: choice}).values()), choice)
            for choice in CHOICES[name]
        ]
        values[name] = min(scores)[1]
    return values


def load(path: Path) -> list[tuple[Row, Scenario]]:
    """Rows that can be expressed and ask no more than the card can do, no source too many."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(1).shuffle(rows)
    counts: dict[Key, int] = {}
    data: list[tuple[Row, Scenario]] = []
    for row in rows:
        key = (row["source"], row["kind"])
        if row["source"] in ONE_STACK or row["kind"] == "total_tokens_per_s":
            continue
        judged = judge(row)
        if judged.ours is None or judged.too_fast or counts.get(key, 0) >= A_SOURCE:
            continue
        counts[key] = counts.get(key, 0) + 1
        data.append((row, scenario_of(row)))
    return data


def main(argv: Sequence[str] | None = None) -> int:
    """Print the constants found without each source, and that source's error with them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_fit", description=__doc__)
    parser.add_argument("--rows", type=Path, default=DEFAULT_ROWS, help=f"folder with {FILE}")
    arguments = parser.parse_args(argv)
    path = arguments.rows / FILE
    if not path.is_file():
        print(f"no {path}: give the folder of published speeds with --rows", file=sys.stderr)
        return 1
    data = load(path)
    start = {
        "product": NOMINAL.compute["product"], "attention": NOMINAL.compute["attention"],
        "memory": NOMINAL.memory["memory"], "cache": NOMINAL.memory["cache"],
        "operator": NOMINAL.operator_seconds,
        "backward operator": NOMINAL.backward_operator_seconds,
    }  # fmt: skip
    print("| left out | " + " | ".join(CHOICES) + " | its error with these |")
    print("|---" * (len(CHOICES) + 2) + "|")
    for source in sorted({row["source"] for row, _ in data}):
        values = fit([each for each in data if each[0]["source"] != source], start)
        own = errors([each for each in data if each[0]["source"] == source], values)
        cells = [f"{v * 1e6:.0f} µs" if v < 0.01 else f"{v:.2f}" for v in values.values()]
        judged = ", ".join(f"{kind} {error:.0%}" for (_, kind), error in own.items())
        print(f"| {source} | " + " | ".join(cells) + f" | {judged} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
