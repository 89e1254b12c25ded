"""``python -m benchmarks.trace_classes``: a trace of one model of every class in the catalogue."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.errors import WillfitError
from willfit.estimator import estimate
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Scenario,
    Training,
    Workload,
)
from willfit.sources import catalogue

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORK: Final[dict[str, Workload]] = {
    "inference": Workload(
        loading=Loading(dtype=BFLOAT16), inference=Inference(context_len=256, batch_size=2)
    ),
    "training": Workload(
        loading=Loading(dtype=BFLOAT16),
        training=Training(
            method="full", micro_batch_size=2, max_length=256, optimizer="adamw_torch_fused"
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One class's trace, or why there is none."""

    model_class: str
    model: str
    workload: str
    seconds: float
    reason: str
    """Why there is no trace; "" where there is one."""
    ratio: float | None
    """Allocated bytes at the peak, formula / trace; None where the formulas do not know it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for every class and how many of them traced."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace_classes", description=__doc__)
    parser.add_argument("--only", help="classes whose name contains this")
    parser.add_argument("--workload", choices=WORK, default="inference")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args(argv)
    rows = []
    for spec in models(arguments.only or ""):
        rows.append(row(spec, arguments.workload, arguments.gpu))
        print(line(rows[-1]), flush=True)
    done = [each for each in rows if not each.reason]
    print(f"{len(done)} of {len(rows)} classes traced")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in rows], indent=1))
    return 0


def models(part: str) -> Iterator[ModelSpec]:
    """The smallest model of each class that is not stored quantised."""
    found: dict[str, ModelSpec] = {}
    for entry in catalogue.entries():
        spec = catalogue.load(entry.id)
        if spec is None or spec.quantization is not None or part not in spec.model_class:
            continue
        known = found.get(spec.model_class)
        if known is None or spec.num_params < known.num_params:
            found[spec.model_class] = spec
    yield from (found[name] for name in sorted(found))


def row(spec: ModelSpec, workload: str, gpu: str) -> Row:
    """Trace one model."""
    scenario = Scenario(
        model=spec, workload=WORK[workload], machine=Machine(gpus=parse_machine(gpu).gpus)
    )
    reason, ratio, traced = "", None, 0
    started = time.perf_counter()
    try:
        traced = estimate(scenario, trace=True).gpus[0].peak.allocated_bytes
    except WillfitError as error:
        reason = str(error)
    seconds = time.perf_counter() - started
    if traced and spec.architecture is not None:
        try:
            ratio = estimate(scenario).gpus[0].peak.allocated_bytes / traced
        except WillfitError:
            ratio = None
    return Row(
        model_class=spec.model_class,
        model=spec.id,
        workload=workload,
        seconds=seconds,
        reason=reason,
        ratio=ratio,
    )


def line(found: Row) -> str:
    """One line of the table."""
    ratio = f"{found.ratio:6.3f}" if found.ratio is not None else "      "
    head = f"{found.model_class:44.44} {found.seconds:6.1f} s {ratio}"
    return f"{head}  {found.reason or 'ok'}"


if __name__ == "__main__":
    sys.exit(main())
