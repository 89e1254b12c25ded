"""``python -m benchmarks.throughput``: every published speed beside ours, by source."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.speed_rows import Row, reading, scenario_of
from willfit.errors import WillfitError
from willfit.estimator.speed.prepared import rates
from willfit.estimator.timing import Span, Timing, timing
from willfit.scenario import Scenario

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DEFAULT_ROWS: Final = Path(__file__).resolve().parents[2] / "shared" / "measured"
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "throughput.md"
FILE: Final = "throughput.jsonl"
WITHIN: Final = 0.25
"""Error that a source's median is meant to stay within."""

CAUSES: Final = (
    # (source, words that the row's description must hold, cause)
    ("qwen_readme", ("method full",), "run under DeepSpeed ZeRO-3 (finetune_ds.sh), whose hooks "
     "around every module cost a fixed time that is not modelled"),
    ("qwen_readme", ("×4",), "two servers, and the network between them is slower than NVLink"),
    ("qwen_speed_benchmark", ("H20",), "on this page a cached token costs 10 to 20 times its "
     "traffic, in bf16 more than in the page's own GPTQ runs; not explained"),
    ("qwen_speed_benchmark", ("×",), "accelerate's hooks between GPUs are not modelled"),
    ("optimum_benchmark_history", ("Llama", "prompt"), "a workstation (its list of GPUs holds a "
     "'DGX Display') whose A100s reach 0.5 of the peak in prefill, others 0.6 and more"),
    ("torchtune", (), "own model code, compiled and packed: faster than transformers' modules"),
    ("torchtitan", (), "selective checkpointing is counted as none, and the cards are limited to "
     "500 W"),
    ("trl_sft_benchmark", (), "two nodes: the network between them is slower than NVLink"),
    ("ms_swift_benchmark", (), "lengths are a lognormal of the published mean and spread"),
    ("hf_sdpa_tables", ("bert-base", "distilbert"), "the host takes longer for autograd's calls here"),
    ("hf_sdpa_tables", ("Laptop",), "a laptop's core runs Python twice as fast as a server's"),
    ("single_reports", ("T4", "seq 128"), "one report reaches twice what matrix products of "
     "bfloat16 were measured to reach on a T4"),
    ("single_reports", ("T4", "seq 512"), "rows may be padded further; 67 h are the bar's guess"),
)  # fmt: skip
"""Why a row is far off, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A published speed beside ours."""

    id: str
    source: str
    kind: str
    what: str
    measured: float
    ours: Span | None
    limited_by: str = ""
    reason: str = ""
    """Why there is no estimate, or why it is likely to be far off."""
    too_fast: bool = False
    """Whether the published figure asks more of the card than it can do."""

    @property
    def error(self) -> float | None:
        """(ours − published) / published; None without an estimate."""
        return None if self.ours is None else self.ours.nominal / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the published figure lies in our range."""
        return self.ours is not None and self.ours.low <= self.measured <= self.ours.high


def judge(row: Row) -> Judged:
    """One row; what cannot be expressed carries the reason."""
    what, measured = _what(row), float(row["value"])
    try:
        scenario = scenario_of(row)
        timed = timing(scenario)
    except WillfitError as error:
        reason = str(error).partition(":")[0]
        return Judged(id=row["id"], source=row["source"], kind=row["kind"], what=what,
                      measured=measured, ours=None, reason=reason)  # fmt: skip
    impossible = _too_fast(row, scenario, timed)
    return Judged(
        id=row["id"],
        source=row["source"],
        kind=row["kind"],
        what=what,
        measured=measured,
        ours=reading(row, timed),
        limited_by=timed.limited_by,
        reason=impossible or _cause(row["source"], what),
        too_fast=bool(impossible),
    )


def _too_fast(row: Row, scenario: Scenario, timed: Timing) -> str:
    """A figure that asks more of the card than its products were measured to reach."""
    if row["kind"] not in ("forward_seconds", "step_seconds", "train_tokens_per_s"):
        return ""
    assert scenario.machine is not None
    seconds = float(row["value"])
    if row["kind"] == "train_tokens_per_s":
        assert timed.tokens_per_second is not None
        assert timed.step_seconds is not None
        seconds = timed.tokens_per_second.nominal * timed.step_seconds.nominal / seconds
    reached = timed.flops / seconds / len(scenario.machine.gpus)
    best = max(rates(scenario.machine.gpus[0]).flops[name] for name in ("float16", "bfloat16"))
    if reached < 0.9 * best:
        return ""
    return f"it asks {reached / 1e12:.0f} TFLOP/s of a card that reaches {best / 1e12:.0f} at best"


def _cause(source: str, what: str) -> str:
    matching = (
        cause
        for name, words, cause in CAUSES
        if name == source and (not words or any(word in what for word in words))
    )
    return next(matching, "")


def _what(row: Row) -> str:
    work = row["workload"]
    parts = [row["model"].partition("/")[2] or row["model"], str(row["gpu"])]
    if row["n_gpu"] > 1:
        parts.append(f"×{row['n_gpu']}")
    parts += [
        f"{key} {work[key]}"
        for key in ("method", "attn", "batch", "prompt", "seq")
        if work.get(key)
    ]
    return ", ".join(parts)


def judge_file(path: Path) -> list[Judged]:
    """All rows of a file of published speeds."""
    with path.open(encoding="utf-8") as lines:
        return [judge(json.loads(line)) for line in lines]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The errors of one source and kind."""

    source: str
    kind: str
    rows: int
    expressed: int
    median: float | None
    p95: float | None
    bias: float | None
    inside: float | None
    """Part of the published figures that lie in our range."""


def summarise(source: str, kind: str, members: Sequence[Judged]) -> Summary:
    """Median and 95th percentile of the absolute error, median of the signed one."""
    errors = sorted(abs(j.error) for j in members if j.error is not None)
    signed = [j.error for j in members if j.error is not None]
    if not errors:
        return Summary(source=source, kind=kind, rows=len(members), expressed=0, median=None,
                       p95=None, bias=None, inside=None)  # fmt: skip
    return Summary(
        source=source, kind=kind, rows=len(members), expressed=len(errors),
        median=median(errors), p95=errors[min(int(0.95 * len(errors)), len(errors) - 1)],
        bias=median(signed), inside=sum(j.inside for j in members) / len(errors),
    )  # fmt: skip


def groups(judged: Sequence[Judged]) -> Iterator[tuple[Summary, list[Judged]]]:
    """The rows by source and kind with their summaries."""
    key = lambda j: (j.source, j.kind)  # noqa: E731 - a key used twice
    for (source, kind), members in groupby(sorted(judged, key=key), key=key):
        rows = list(members)
        yield summarise(source, kind, rows), rows


def table(judged: Sequence[Judged]) -> str:
    """The errors by source, as a Markdown table."""
    lines = [
        "| source | published | rows | expressed | median error | p95 | bias | in range |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(summary) for summary, _ in groups(judged))])


def worst(members: Sequence[Judged], count: int) -> list[str]:
    """The rows that are furthest off, each with what is known of the cause."""
    ranked = sorted((j for j in members if j.ours is not None), key=lambda j: -abs(j.error or 0))
    return [_described(j) for j in ranked[:count]]


def _described(j: Judged) -> str:
    assert j.ours is not None
    known = f"; {j.reason}" if j.reason and abs(j.error or 0) > WITHIN else ""
    return (
        f"- {j.error or 0:+.0%} `{j.id}` {j.what}: published {j.measured:.4g}, ours "
        f"{j.ours.nominal:.4g} ({j.ours.low:.3g} to {j.ours.high:.3g}, {j.limited_by}){known}"
    )


def _line(summary: Summary) -> str:
    def percent(value: float | None, sign: str = "") -> str:
        return "n/a" if value is None else format(value, f"{sign}.0%")

    return (
        f"| {summary.source} | {summary.kind} | {summary.rows} | {summary.expressed} | "
        f"{percent(summary.median)} | {percent(summary.p95)} | {percent(summary.bias, '+')} | "
        f"{percent(summary.inside)} |"
    )


INTRODUCTION: Final = """# Speed, so far

`python -m benchmarks.throughput` puts every published speed that can be expressed beside ours.
An error is (ours − published) / published of the published unit, bias its median with its sign,
"in range" the part of the figures between our low and our high end. The aim is a median within
25 % for every source.

What the model has: FLOPs that equal torch's own counter (`tests/test_timing_flops.py`); bytes of
weights, cache, scores and elementwise kernels; operators that the host has to launch. All of it
against the card's rates, of which real code reaches a part. The parts are few, one for each kind of
work, and the same for every card and source (`formulas/timing/efficiency.py`).

Rows are those of the development part of the published material. Sources with other code or with
networks between nodes (`torchtune`, `torchtitan`, `trl_sft_benchmark`) show where the model ends.
"""

LEFT_OUT: Final = """## Every source left out in turn

`python -m benchmarks.speed_fit`: the constants that the other sources agree on, on a coarse grid,
and the median error of the source that had no say.

| left out | product | attention | memory | cache | operator | autograd | its error with these |
|---|---|---|---|---|---|---|---|
| hf_sdpa_tables | 0.68 | 0.85 | 0.66 | 0.32 | 18 µs | 14 µs | step 16 %, forward 2 % |
| ms_swift_benchmark | 0.68 | 0.85 | 0.66 | 0.32 | 18 µs | 16 µs | 11 % |
| nanotron_ultrascale | 0.60 | 0.85 | 0.78 | 0.29 | 18 µs | 14 µs | 14 % |
| optimum_benchmark_history | 0.76 | 0.85 | 0.72 | 0.35 | 18 µs | 16 µs | tokens 19, forward 18 % |
| peft_metamath | 0.60 | 0.85 | 0.78 | 0.29 | 18 µs | 14 µs | 5 % |
| qwen_readme | 0.60 | 0.85 | 0.84 | 0.29 | 18 µs | 20 µs | 17 % |
| qwen_speed_benchmark | 0.60 | 0.85 | 0.78 | 0.29 | 18 µs | 14 µs | 13 % |
| single_reports | 0.60 | 0.85 | 0.78 | 0.29 | 18 µs | 14 µs | tokens 2 %, step 45 % (3 rows) |
| taken | 0.68 | 0.80 | 0.72 | 0.33 | 17 µs | 15 µs | |
"""

READING: Final = """## What is seen

- Decoding at batch 1 is launches: host time per operator explains {near} of Qwen's runs
  from 0.5B to 72B within a quarter. Only long contexts and large models read longer than that.
- `torch.cat` of the cache, and the copies of K and V to all heads before transformers 4.48, make
  long contexts slow; SDPA gives a head one block for a single query, which is slower still.
- Float16 products reach 42 of a T4's 65 TFLOP/s, bfloat16 ones 2.3, and the hosts that come with
  it launch 1.6 times slower. P100 and V100 rest on measured products alone: no published
  fine-tuning speed of theirs could be expressed.
- Not modelled: hooks of DeepSpeed and of accelerate between GPUs, networks between nodes, compiled
  code, the scan of recurrent layers. Their rows are far off and stay in the table.
"""


def page(judged: Sequence[Judged], microseconds: Sequence[tuple[str, float]]) -> str:
    """The whole of ``docs/throughput.md``."""
    decoded = [j for j in judged if j.source == "qwen_speed_benchmark" and "H20" not in j.what]
    near = sum(1 for j in decoded if j.error is not None and abs(j.error) <= WITHIN)
    expressed = sum(1 for j in decoded if j.error is not None)
    parts = [INTRODUCTION, table(judged), "", READING.format(near=f"{near} of {expressed}")]
    speed = ", ".join(f"{name} {amount:.0f} µs" for name, amount in microseconds)
    parts += [
        f"One call of `timing()`: {speed} (one core).",
        "",
        LEFT_OUT,
        "## The worst ten by source",
        "",
    ]
    for summary, members in groups(judged):
        lines = worst(members, 10)
        if lines:
            parts += [f"### {summary.source}, {summary.kind}", "", *lines, ""]
    missing = _missing(judged)
    return "\n".join([*parts, "## Not expressed", "", *missing]) + "\n"


def _missing(judged: Sequence[Judged]) -> list[str]:
    counts: dict[tuple[str, str], int] = {}
    for j in judged:
        if j.ours is None:
            key = (j.source, j.reason)
            counts[key] = counts.get(key, 0) + 1
    return [f"- {source} ×{count}: {reason}" for (source, reason), count in counts.items()]


def call_microseconds(path: Path, calls: int = 5) -> list[tuple[str, float]]:
    """Time of one call once its model is known, the best of 400 short rounds."""
    found: dict[str, Row] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["source"] in ("qwen_speed_benchmark", "torchtune"):
                found.setdefault(str(row["workload"]["task"]), row)
    results: list[tuple[str, float]] = []
    for task, row in sorted(found.items()):
        scenario = scenario_of(row)
        timing(scenario)
        rounds = [_round(scenario, calls) for _ in range(400)]
        results.append((task, min(rounds) * 1e6))
    return results


def _round(scenario: Scenario, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        timing(scenario)
    return (time.perf_counter() - start) / calls


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; ``--worst`` lists rows, ``--write`` writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--rows", type=Path, default=DEFAULT_ROWS, help=f"folder with {FILE}")
    parser.add_argument("--source", action="append", help="only this source (repeatable)")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the worst N rows")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    arguments = parser.parse_args(argv)
    path = arguments.rows / FILE
    if not path.is_file():
        print(f"no {path}: give the folder of published speeds with --rows", file=sys.stderr)
        return 1
    judged = [j for j in judge_file(path) if not arguments.source or j.source in arguments.source]
    print(table(judged))
    for _, members in groups(judged):
        for line in worst(members, arguments.worst):
            print(line)
    if arguments.write:
        PAGE.write_text(page(judged, call_microseconds(path)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
