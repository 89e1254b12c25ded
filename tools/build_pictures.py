"""Draws the project's own pictures into docs/images.

``python -m tools.build_pictures``: those by formula are the same byte for byte each time, which a
test watches; that of a traced step needs ``willfit[trace]`` and is only drawn with ``--traced``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from willfit.cli import estimate as estimate_command
from willfit.cli import plan as plan_command
from willfit.cli.parser import Parser
from willfit.cli.pictures import Traced
from willfit.report.drawing import Drawing, svg
from willfit.report.peak import Side, peak_drawing, sides_of
from willfit.report.stages import Block, Lane, stages_drawing
from willfit.report.timeline import cards_of, timeline_drawing
from willfit.results import Component, Estimate, GpuEstimate, PhaseEstimate
from willfit.units import GIB

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "images"
THREAD: Final = (
    "llama-3-8b --gpu T4 --train qlora --num-labels 3 --lora-target-modules all-linear "
    "--optim paged_adamw_32bit --padded --prepare-kbit --fp16 --per-device-train-batch-size 2 "
    "--lora-r 64 --max-length 1024"
)
"""The fine-tuning thread's notebook, by what docs/stories/fine-tuning-thread.md finds out."""
INFERENCE: Final = "meta-llama/Llama-3.1-8B --gpu rtx4090 --context {}"
CONTEXTS: Final = ("8k", "64k")
TRAINING: Final = "llama-3-8b --gpu A100-80GB --per-device-train-batch-size 4 --train {}"
STEP: Final = (
    "meta-llama/Llama-3.2-1B --gpu T4 --train lora --per-device-train-batch-size 1 "
    "--max-length 1024 --trace"
)
STAGE: Final = (
    "{} --gpu T4 --quantize int8 --num-labels 3 --dtype {} --batch-size 1 --context 2048 --padded"
)
KEPT_BYTES: Final = 8_900_000_000
"""What GPU 1 kept after `del` and `empty_cache`, as the ensemble thread reports it: 8.9 GB."""
MESSAGE: Final = {"allocated": 14.04, "kept": 509.85 / 1024, "process": 14.73, "total": 14.75}
"""GiB in the fine-tuning thread's message (docs/stories/fine-tuning-thread.md)."""


def estimated(settings: str) -> Estimate:
    """The estimate of what would be typed after ``willfit estimate``."""
    parser = Parser(prog="willfit estimate")
    estimate_command.configure(parser)
    return estimate_command.compute(parser.parse_args(shlex.split(settings)))[0]


def qlora_t4() -> Drawing:
    """The mission's story: as asked, and after the planner's first plan."""
    parser = Parser(prog="willfit plan")
    plan_command.configure(parser)
    planning = plan_command.compute(parser.parse_args([*shlex.split(THREAD), "--top", "1"]))
    plan = planning.plans[0]
    changes = ", ".join(step.change.id.replace("_", " ") for step in plan.steps)
    sides = [
        *sides_of(planning.baseline, "As asked"),
        *sides_of(plan.estimate, f"After the first plan: {changes}"),
    ]
    return peak_drawing(sides, "Fine-tuning Llama-3-8B with QLoRA on a T4")


def inference() -> Drawing:
    """Loading, prefill and decoding at two lengths."""
    sides: list[Side] = []
    for context in CONTEXTS:
        gpu = estimated(INFERENCE.format(context)).gpus[0]
        phases = [phase for phase in gpu.phases if phase.name != "load" or not sides]
        tokens = f"{int(context[:-1]) * 1024:,} tokens"
        sides += [(_PHASES[phase.name].format(tokens), _only(gpu, phase)) for phase in phases]
    return peak_drawing(sides, "Llama-3.1-8B in bfloat16 on an RTX 4090")


_PHASES: Final = {
    "load": "Loaded",
    "prefill": "Reading a prompt of {} (prefill)",
    "decode": "Writing, with {} in the cache (decode)",
}


def _only(gpu: GpuEstimate, phase: PhaseEstimate) -> GpuEstimate:
    """The GPU at one phase, whose range is not known apart from the others'."""
    amount = phase.device_bytes
    return replace(gpu, phases=(phase,), low_device_bytes=amount, high_device_bytes=amount)


def training() -> Drawing:
    """Full fine-tuning, LoRA and QLoRA, with and without checkpointing."""
    sides = []
    for method, name in (("full", "Full"), ("lora", "LoRA"), ("qlora", "QLoRA")):
        for flag, also in (("", ""), (" --gradient-checkpointing", ", checkpointing")):
            sides += sides_of(estimated(TRAINING.format(method) + flag), name + also)
    return peak_drawing(sides, "Fine-tuning Llama-3-8B, 4 × 1,024 tokens, on an A100 80 GB")


def ensemble() -> Drawing:
    """Two models one after another on one T4 of two: in one process, and in one each."""
    gemma, llama = (
        estimated(STAGE.format(model, dtype)).gpus[0]
        for model, dtype in (("google/gemma-2-9b", "bfloat16"), ("llama-3-8b", "float16"))
    )
    first, second = gemma.peak.device_bytes, llama.peak.device_bytes
    name = "Gemma-2-9b int8"
    together = Lane(
        name="In one process: after del and empty_cache, GPU 1 keeps 8.9 GB, and Llama fails",
        blocks=[
            Block(name=name, peak_bytes=first, after_bytes=KEPT_BYTES),
            Block(
                name="Llama-3-8B int8",
                before_bytes=KEPT_BYTES,
                peak_bytes=KEPT_BYTES + second,
                after_bytes=KEPT_BYTES,
            ),
        ],
        capacity_bytes=gemma.budget_bytes,
    )
    apart = replace(
        together,
        name="willfit run: a process for each model, begun when the memory is back",
        blocks=[
            Block(name=name, peak_bytes=first),
            Block(name="Llama-3-8B int8", peak_bytes=second),
        ],
    )
    return stages_drawing([together, apart], "Gemma-2, then Llama-3, on a T4")


def four_numbers() -> Drawing:
    """Allocated, reserved and device in one message of PyTorch's."""
    live, kept = round(MESSAGE["allocated"] * GIB), round(MESSAGE["kept"] * GIB)
    context = round(MESSAGE["process"] * GIB) - live - kept
    parts = {"live tensors": live, "reserved, not allocated": kept, "CUDA context": context}
    names = ("allocated: memory_allocated()", "reserved: memory_reserved()",
             "device: nvidia-smi, for the process")  # fmt: skip
    sides = [
        (name, _bare(dict(list(parts.items())[: number + 1]))) for number, name in enumerate(names)
    ]
    return peak_drawing(sides, "A T4 of 14.75 GiB as it refuses 224 MiB: one process, three sizes")


def _bare(parts: Mapping[str, int]) -> GpuEstimate:
    """A bar of parts that stand for no estimate."""
    total = sum(parts.values())
    known = {"reserved, not allocated": "fragmentation", "CUDA context": "cuda_context"}
    phase = PhaseEstimate(
        name="",
        allocated_bytes=total,
        reserved_bytes=total,
        device_bytes=total,
        components=tuple(
            Component(name=known.get(name, name), num_bytes=amount)
            for name, amount in parts.items()
        ),
    )
    return GpuEstimate(
        index=0,
        name="",
        phases=(phase,),
        capacity_bytes=None,
        budget_bytes=None,
        low_device_bytes=total,
        high_device_bytes=total,
    )


def training_step() -> Drawing:
    """Allocated, reserved and device memory over two traced steps."""
    parser = Parser(prog="willfit estimate")
    estimate_command.configure(parser)
    arguments = parser.parse_args([*shlex.split(STEP), "--timeline", "step.svg"])
    kept = Traced(arguments=arguments)
    estimate, _ = estimate_command.compute(arguments, kept.listener)
    title = "Two steps of LoRA on Llama-3.2-1B, 1 × 1,024 tokens, on a T4"
    return timeline_drawing(kept.timelines(), title, cards=cards_of(estimate))


FORMULA: Final[Mapping[str, Callable[[], Drawing]]] = {
    "qlora-t4.svg": qlora_t4,
    "inference.svg": inference,
    "training.svg": training,
    "ensemble.svg": ensemble,
    "four-numbers.svg": four_numbers,
}
TRACED: Final[Mapping[str, Callable[[], Drawing]]] = {"training-step.svg": training_step}


def main() -> int:
    """Draw the pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = {**FORMULA, **TRACED} if "--traced" in sys.argv[1:] else FORMULA
    for name, draw in drawn.items():
        (FOLDER / name).write_text(svg(draw()), encoding="utf-8")
        print(f"wrote {FOLDER / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
