"""From a formula's phases to what one GPU shows: allocated, reserved, device, and the range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from willfit.estimator.uncertainty import Uncertainty
from willfit.formulas.phase import ComponentName, Phase
from willfit.results import Component, GpuEstimate, PhaseEstimate
from willfit.scenario.machine import Gpu, Machine
from willfit.scenario.model import Unknown
from willfit.units import MIB, round_up


@dataclass(frozen=True, kw_only=True)
class Overheads:
    """What a GPU holds besides allocated tensors."""

    padding_bytes: int
    """Reserved by the allocator for the weights but holding nothing: ends of their segments."""
    context_bytes: int
    """CUDA context, modules and libraries of one process."""
    context_low_bytes: int
    context_high_bytes: int
    context_note: str
    retained_bytes: int = 0
    """Reserved right after loading and kept (the loader's warm-up block), at least."""


def gpu_estimate(
    index: int,
    gpu: Gpu | None,
    machine: Machine | None,
    phases: Sequence[Phase],
    overheads: Overheads,
    unknowns: Sequence[Unknown],
    uncertain: Uncertainty,
    layers: str = "",
    weights_note: str = "",
) -> GpuEstimate:
    """One GPU's phases in order; reserved never shrinks, for the allocator keeps its segments."""
    notes = usual_notes(overheads, weights_note)
    estimates: list[PhaseEstimate] = []
    reserved = overheads.retained_bytes
    for phase in phases:
        reserved = max(reserved, _reserved_bytes(phase, overheads))
        estimates.append(
            phase_estimate(
                phase.name,
                components=phase.components,
                reserved_bytes=reserved,
                context_bytes=overheads.context_bytes,
                notes={**notes, **phase.notes},
            )
        )
    return with_range(index, gpu, machine, estimates, overheads, unknowns, uncertain, layers)


def usual_notes(overheads: Overheads, weights_note: str) -> dict[ComponentName, str]:
    """What every phase says of its components."""
    return {
        "weights": weights_note,
        "fragmentation": "reserved by the allocator but not allocated",
        "cuda_context": overheads.context_note,
    }


def with_range(
    index: int,
    gpu: Gpu | None,
    machine: Machine | None,
    estimates: Sequence[PhaseEstimate],
    overheads: Overheads,
    unknowns: Sequence[Unknown],
    uncertain: Uncertainty,
    layers: str,
) -> GpuEstimate:
    """A GPU's phases with what is not known around the largest, and what the level is off by."""
    peak = max(phase.device_bytes for phase in estimates)
    below, above = uncertain.ends(peak - overheads.context_bytes)
    low = sum(unknown.low_bytes for unknown in unknowns) - below
    high = sum(unknown.high_bytes for unknown in unknowns) + above
    return GpuEstimate(
        index=index,
        name=gpu.name if gpu is not None else "",
        phases=tuple(estimates),
        capacity_bytes=gpu.capacity_bytes if gpu is not None else None,
        budget_bytes=machine.budget_bytes(index) if machine is not None else None,
        low_device_bytes=peak + low - overheads.context_bytes + overheads.context_low_bytes,
        high_device_bytes=peak + high - overheads.context_bytes + overheads.context_high_bytes,
        layers=layers,
    )


def _reserved_bytes(phase: Phase, overheads: Overheads) -> int:
    """Allocated and cached plus what the segments of the weights pad, in whole 2 MiB pages.

    Segments of 10 MiB and more are rounded to 2 MiB (c10 CUDACachingAllocator, kRoundLarge).
    """
    taken = phase.allocated_bytes + phase.cached_bytes + overheads.padding_bytes
    return round_up(taken, 2 * MIB)


def phase_estimate(
    name: str,
    *,
    components: Mapping[ComponentName, int],
    reserved_bytes: int,
    context_bytes: int,
    notes: Mapping[ComponentName, str],
) -> PhaseEstimate:
    """One phase's peak: what is allocated, what is reserved on top, and the context."""
    allocated = sum(components.values())
    parts: dict[ComponentName, int] = {
        **components,
        "fragmentation": reserved_bytes - allocated,
        "cuda_context": context_bytes,
    }
    return PhaseEstimate(
        name=name,
        allocated_bytes=allocated,
        reserved_bytes=reserved_bytes,
        device_bytes=reserved_bytes + context_bytes,
        components=tuple(
            Component(name=part, num_bytes=amount, note=notes.get(part, ""))
            for part, amount in parts.items()
            if amount
        ),
    )
