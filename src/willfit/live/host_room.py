"""Whether a run fits into this machine's own memory, where there is no GPU to run it on."""

from __future__ import annotations

from typing import Final

from willfit.errors import InputError, WillfitError
from willfit.estimator import estimate
from willfit.live.here import free_ram
from willfit.live.shortened import layers_of, shortened
from willfit.scenario import Scenario
from willfit.units import GIB, format_bytes

LIBRARIES: Final = GIB
"""Resident memory of Python with torch, transformers and peft before a model comes: 0.6 to 0.9 GiB
with torch 2.13's CPU build, measured."""


def host_bytes(scenario: Scenario) -> int:
    """What the run would take of host memory: the estimate's tensors, and the libraries.

    Weights that are packed while loading are all there before, as they are stored.
    """
    found = estimate(scenario, search_limits=False)
    most = max(phase.allocated_bytes for phase in found.gpus[0].phases)
    packed = scenario.workload.loading.quantization is not None
    return most + LIBRARIES + (found.host.disk_bytes if packed else 0)


def require_room(scenario: Scenario) -> None:
    """Raise `InputError` where it does not fit, with the smaller thing to try.

    Where the formulas know nothing of the model, it is tried.
    """
    free = free_ram()
    try:
        needed = host_bytes(scenario)
    except WillfitError:
        return
    if free is None or needed <= free:
        return
    raise InputError(
        f"there is no GPU here, and in host memory {scenario.model.id} would take "
        f"{format_bytes(needed)} by formula, of which {format_bytes(free)} are free: "
        f"{_smaller(scenario, free)}"
    )


def _smaller(scenario: Scenario, free: int) -> str:
    """The most layers that fit, halved until they do."""
    layers = layers_of(scenario.model) // 2
    while layers:
        try:
            fits = host_bytes(shortened(scenario, layers)) <= free
        except WillfitError:
            break
        if fits:
            return f"try --layers {layers}, which measures a model of so many layers"
        layers //= 2
    return "try a smaller model, or a shorter --context or --max-length"
