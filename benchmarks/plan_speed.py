"""Scenarios a second by formula on one core, and what whole ``willfit plan`` commands take.

``python -m benchmarks.plan_speed [--trace]``: processor seconds, which a busy machine disturbs less
than the clock, and the clock's beside them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shlex
import subprocess
import sys
import time
from typing import Final

from willfit.changes import changes_for
from willfit.cli import plan as command
from willfit.cli.build import build_request
from willfit.cli.parser import Parser
from willfit.planning.judge import Judge
from willfit.planning.search import Candidate, subsets
from willfit.scenario import Scenario

CASES: Final = (
    "llama-3-8b --gpu T4 --train qlora --num-labels 3 --lora-r 64 --lora-target-modules all-linear",
    "llama-3-8b --gpu T4",
    "gemma-2-9b --gpu T4 --num-labels 3 --quantize int8 --batch-size 8 --context 2048",
    "mistral-7b --gpu 3060 --train lora",
    "llama-3.2-3b --gpu 4090 --train full",
    "bert-base-uncased --gpu T4 --train full --per-device-train-batch-size 64 --max-length 512",
    "gemma-2-9b-it --gpu T4x2 --dtype float16 --batch-size 4",
    "llama-3-70b --gpu H100x8 --train full",
    "deepseek-v3 --gpu H200x8",
)
SETS: Final = 600
"""Sets of changes that are judged of each case."""


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", action="store_true", help="also with --trace --no-cache")
    trace = parser.parse_args().trace
    print("scenarios a second by formula, one core: from the start, and once loading is known")
    rates = []
    for case in CASES:
        count, first, again = _judged(_scenario(case))
        rates.append(count / again)
        print(f"  {count / first:8,.0f} {count / again:8,.0f}  {case}")
    print(f"  {'':8} {sorted(rates)[len(rates) // 2]:8,.0f}  median")
    print("whole commands: processor seconds, seconds by the clock")
    for case in CASES:
        spent, clock = _command(f"plan {case}")
        print(f"  {spent:6.2f} {clock:6.2f}  willfit plan {case}")
    if trace:
        for case in CASES[:2]:
            spent, clock = _command(f"plan {case} --trace --no-cache")
            print(f"  {spent:6.2f} {clock:6.2f}  willfit plan {case} --trace")
    return 0


def _scenario(text: str) -> Scenario:
    parser = Parser()
    command.configure(parser)
    return build_request(parser.parse_args(shlex.split(text))).scenario


def _judged(scenario: Scenario) -> tuple[int, float, float]:
    """(sets of up to three changes, processor seconds to judge them, and to do it again)."""
    start = Candidate(changes=(), scenario=scenario, time_of=lambda _: 1.0)
    changes = changes_for(scenario, spends=True, ahead=True)
    sets = list(itertools.islice(subsets(start, changes, 3), SETS))
    judge, spent = Judge(), []
    for _ in range(2):
        began = time.process_time()
        for candidate in sets:
            judge(candidate.scenario)
        spent.append(time.process_time() - began)
    return len(sets), spent[0], spent[1]


def _command(text: str) -> tuple[float, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "willfit", *shlex.split(text)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    clock, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


if __name__ == "__main__":
    sys.exit(main())
