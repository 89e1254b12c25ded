"""``python -m benchmarks.grid``: the formulas beside the trace, over models, workloads and GPUs.

``--trainings N`` and ``--inferences N`` take so many settings at random out of many thousands
instead (`benchmarks.drawn`). What no measurement has seen stands there beside the other way to the
same number.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.drawn import Draw, inferences, trainings
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16
from willfit.errors import WillfitError
from willfit.estimator import estimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.resolve import resolve

os.environ.setdefault("HF_HUB_OFFLINE", "1")

MODELS: Final = (
    "meta-llama/Meta-Llama-3-8B", "mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-8B", "google/gemma-2-9b-it", "google/gemma-3-4b-it", "microsoft/phi-2",
    "microsoft/Phi-3-mini-4k-instruct", "openai-community/gpt2-xl", "facebook/opt-1.3b",
    "bigscience/bloom-3b", "EleutherAI/pythia-6.9b", "Qwen/Qwen3-30B-A3B",
    "google-bert/bert-base-cased", "google-t5/t5-large", "tiiuae/falcon-7b",
)  # fmt: skip
LORA: Final = Lora(r=16, target_modules=("all-linear",))
NF4: Final = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
STEP: Final[dict[str, Any]] = {
    "micro_batch_size": 2,
    "max_length": 512,
    "optimizer": "adamw_torch_fused",
}


def workloads() -> dict[str, tuple[Workload, str]]:
    """Workloads by name, each with the GPU that decides its kernels."""
    half = Loading(dtype=BFLOAT16)
    return {
        "prefill, flash": (Workload(loading=half, inference=Inference(context_len=2048)), "A100"),
        "prefill, T4": (
            Workload(loading=Loading(dtype=FLOAT16), inference=Inference(context_len=1024)),
            "T4",
        ),
        "prefill, eager": (
            Workload(loading=half, inference=Inference(context_len=1024, attn="eager")),
            "A100",
        ),
        "padded, batch 4": (
            Workload(
                loading=half, inference=Inference(context_len=512, batch_size=4, padded=True)
            ),
            "A100",
        ),
        "prefill, nf4": (
            Workload(
                loading=Loading(dtype=BFLOAT16, quantization=NF4),
                inference=Inference(context_len=1024),
            ),
            "L4",
        ),
        "full": (Workload(loading=half, training=Training(method="full", **STEP)), "A100"),
        "full, checkpointed": (
            Workload(
                loading=half,
                training=Training(method="full", gradient_checkpointing=True, **STEP),
            ),
            "A100",
        ),
        "lora": (
            Workload(loading=half, training=Training(method="lora", lora=LORA, **STEP)),
            "A100",
        ),
        "lora, bf16 autocast, checkpointed": (
            Workload(
                loading=half,
                training=Training(
                    method="lora", lora=LORA, bf16=True, gradient_checkpointing=True, **STEP
                ),
            ),
            "A100",
        ),
        "qlora, k-bit, checkpointed": (
            Workload(
                loading=Loading(dtype=BFLOAT16, quantization=NF4),
                training=Training(
                    method="qlora", lora=LORA, bf16=True, prepare_kbit=True,
                    gradient_checkpointing=True, **STEP,
                ),
            ),
            "A100",
        ),
        "int8, lora": (
            Workload(
                loading=Loading(dtype=FLOAT16, quantization=Quantization(scheme="int8")),
                training=Training(method="lora", lora=LORA, **STEP),
            ),
            "A100",
        ),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model under one workload, at both levels."""

    model: str
    workload: str
    formula_bytes: int | None
    """Largest allocated amount of any phase."""
    trace_bytes: int | None
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Formula against trace."""
        if not self.formula_bytes or not self.trace_bytes:
            return None
        return self.formula_bytes / self.trace_bytes - 1


def cases(models: Sequence[str], wanted: Sequence[str] | None = None) -> Iterator[Case]:
    """Every pair of a model and a workload."""
    for model in models:
        for name, (workload, gpu) in workloads().items():
            if not wanted or name in wanted:
                yield case(model, name, workload, gpu)


def sampled(kind: Draw, count: int, seed: int = 0) -> Iterator[Case]:
    """Settings of one kind at random."""
    for drawn in kind(count, seed):
        yield case(drawn.model, drawn.name, drawn.workload, drawn.gpus)


def case(model: str, name: str, workload: Workload, gpu: str) -> Case:
    """One model under one workload, at both levels."""
    machine = Machine(gpus=parse_machine(gpu).gpus)
    found: list[int] = []
    try:
        scenario = Scenario(model=resolve(model), workload=workload, machine=machine)
        for trace in (False, True):
            result = estimate(scenario, search_limits=False, trace=trace)
            phases = [p for p in result.gpus[0].phases if p.name != "load"]
            found.append(max(phase.allocated_bytes for phase in phases))
    except WillfitError as error:
        sides = [*found, None, None]
        return Case(
            model=model, workload=name, formula_bytes=sides[0], trace_bytes=sides[1],
            reason=str(error),
        )  # fmt: skip
    return Case(model=model, workload=name, formula_bytes=found[0], trace_bytes=found[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Print every case, the largest differences and the median."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("--model", action="append", help="only this model (repeatable)")
    parser.add_argument("--workload", action="append", help="only this workload (repeatable)")
    parser.add_argument("--trainings", type=int, metavar="N", help="N trainings at random instead")
    parser.add_argument("--inferences", type=int, metavar="N", help="the same of inferences")
    parser.add_argument("--seed", type=int, default=0, help="of what is taken at random")
    parser.add_argument("--json", help="write every case here")
    arguments = parser.parse_args(argv)
    done: list[Case] = []
    for each in _asked(arguments):
        done.append(each)
        value = "n/a" if each.difference is None else f"{each.difference:+.1%}"
        print(f"{value:>7}  {each.model:36} {each.workload:36} {each.reason[:90]}", flush=True)
    differences = sorted(abs(c.difference) for c in done if c.difference is not None)
    if differences:
        print(
            f"{len(differences)} of {len(done)} cases: median {median(differences):.1%}, "
            f"worst {differences[-1]:.1%}"
        )
    if arguments.json:
        rows = json.dumps([vars(each) for each in done], indent=1)
        Path(arguments.json).write_text(rows + "\n", encoding="utf-8")
    return 0


def _asked(arguments: argparse.Namespace) -> Iterator[Case]:
    if arguments.trainings:
        yield from sampled(trainings, arguments.trainings, arguments.seed)
    if arguments.inferences:
        yield from sampled(inferences, arguments.inferences, arguments.seed)
    if not (arguments.trainings or arguments.inferences):
        yield from cases(arguments.model or MODELS, arguments.workload)


if __name__ == "__main__":
    sys.exit(main())
