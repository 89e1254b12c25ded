"""Estimates without what only CUDA has: the bytes of live tensors, as a host can count them."""

from __future__ import annotations

from typing import Final

from willfit.allocator.rounding import MIN_BLOCK
from willfit.estimator.outcome import load
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.trace.recording import EMPTY_CACHE, Handle, Recording
from willfit.units import round_up

CUDA_ALONE: Final = ("workspaces", "fragmentation", "cuda_context")
"""Components that a host has none of."""


def without_cuda(scenario: Scenario, found: Estimate) -> dict[str, int]:
    """Bytes by phase of an estimate of one GPU, without workspaces and the weights' rounding.

    Loading is what it leaves: how a weight reaches a GPU is CUDA's too. Other tensors stay rounded
    up to 512 bytes each.
    """
    rounding = _rounding(scenario)
    return {
        phase.name: sum(
            part.num_bytes
            for part in phase.components
            if part.name not in CUDA_ALONE and (phase.name != "load" or part.name != "temporaries")
        )
        - rounding
        for phase in found.gpus[0].phases
    }


def _rounding(scenario: Scenario) -> int:
    """Bytes by which the allocator's blocks of 512 are larger than the weights in them."""
    sizes = load(scenario).weights.sizes()
    return sum((round_up(size, MIN_BLOCK) - size) * count for size, count in sizes)


def traced_tensors(recording: Recording) -> dict[str, int]:
    """The most of each phase that is alive in a recording, as asked for, workspaces left out.

    Of loading what it leaves, as in `without_cuda`.
    """
    live: dict[Handle, int] = {}
    held = 0
    most: dict[str, int] = {}
    for event in recording.events:
        if event.handle == EMPTY_CACHE or recording.categories.get(event.handle) in CUDA_ALONE:
            continue
        if event.num_bytes:
            live[event.handle] = event.num_bytes
            held += event.num_bytes
        else:
            held -= live.pop(event.handle, 0)
        loading = event.phase == "load"
        most[event.phase] = held if loading else max(most.get(event.phase, 0), held)
    return most
