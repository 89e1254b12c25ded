"""Phrases and rows of an estimate that its reports share, in the terminal and on pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from willfit.results import Estimate, Failure, GpuEstimate, Limits
from willfit.units import format_bytes

OUTSIDE = "outside the model"
"""Where a tensor was made that belongs to no module."""


def limits_text(limits: Limits) -> str:
    """``batch 4 or context 5,304``; "" where nothing was searched or nothing fits."""
    parts = []
    if limits.batch_size is not None:
        parts.append(f"batch {limits.batch_size}")
    if limits.context_len is not None:
        parts.append(f"context {limits.context_len:,}")
    return " or ".join(parts)


def op_text(op: str) -> str:
    """An operator without torch's own frame: ``bmm`` of ``aten.bmm.default``."""
    return op.removeprefix("aten.").removesuffix(".default")


def failure_place(failure: Failure) -> str:
    """``in model.layers.0.self_attn``."""
    return f"in {failure.module}" if failure.module else OUTSIDE


def unknown_texts(estimate: Estimate) -> Iterator[str]:
    """What makes the range, each with its ends."""
    for unknown in estimate.unknowns:
        low, high = format_bytes(unknown.low_bytes), format_bytes(unknown.high_bytes)
        yield f"{unknown.name} ({low} to {high})"


def note_texts(estimate: Estimate) -> Iterator[str]:
    """Further facts, each after its topic."""
    return (f"{topic}: {text}" for topic, text in estimate.notes.items())


def gpus_text(gpus: Sequence[GpuEstimate]) -> str:
    """``2 × NVIDIA T4 and NVIDIA L4``."""
    names = [gpu.name for gpu in gpus]
    counts = {name: names.count(name) for name in names}
    return " and ".join(f"{n} × {name}" if n > 1 else name for name, n in counts.items())


def dtype_rows(estimate: Estimate) -> list[tuple[str, str, str, str]]:
    """Of each type: its name, the largest layer, all weights, and training with Adam."""
    return [
        (
            row.dtype,
            format_bytes(row.largest_layer_bytes),
            format_bytes(row.total_bytes),
            "n/a" if row.training_adam_bytes is None else format_bytes(row.training_adam_bytes),
        )
        for row in estimate.dtypes
    ]


def phase_rows(gpu: GpuEstimate) -> list[tuple[str, str, str, str]]:
    """Of each phase: its name, and the peaks of allocated, reserved and device bytes."""
    return [
        (
            phase.name,
            format_bytes(phase.allocated_bytes),
            format_bytes(phase.reserved_bytes),
            format_bytes(phase.device_bytes),
        )
        for phase in gpu.phases
    ]
