"""``max_memory``: how much of the weights each GPU holds, and what waits on the host or on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from willfit.changes.change import Apply, Change, Guard, NotApplicable, guarded
from willfit.changes.current import gpus
from willfit.changes.edit import inference_of, with_loading
from willfit.changes.guards import infers, on_transformers, several
from willfit.devices import context_of
from willfit.errors import WillfitError
from willfit.estimator.spread import strategy_of
from willfit.formulas.inference import inference_phases
from willfit.formulas.loading import loading_phase
from willfit.formulas.weights import LoadedWeights, load_weights
from willfit.scenario import Scenario
from willfit.units import format_bytes

_MEGABYTE: Final = 10**6
_DISK: Final = 2**50
"""As much as the weights may be: a disk has no limit in accelerate."""
_WEIGHTS: Final = ("weights", "quantization_state")


def room_for_weights(
    scenario: Scenario, weights: LoadedWeights, *, divided: bool
) -> dict[int | str, int]:
    """Bytes in whole MB by GPU that its budget leaves beside the context and the work.

    ``divided``: the KV cache is spread like the layers; else it is all on each, for the first GPU
    computes what is off the GPUs, and what is not known has its largest effect. Raises as the
    formulas do.
    """
    machine, cards = scenario.machine, gpus(scenario)
    room: dict[int | str, int] = {}
    for index, gpu in enumerate(cards if machine is not None else ()):
        found = inference_phases(
            scenario.model, inference_of(scenario), gpu, scenario.stack, weights
        )
        work = 0
        for phase in found.phases:
            cache = phase.components.get("kv_cache", 0)
            rest = sum(b for n, b in phase.components.items() if n not in _WEIGHTS) - cache
            work = max(work, rest + (cache // len(cards) if divided else cache))
        unknown = 0 if divided else sum(part.high_bytes for part in found.unknowns)
        budget = machine.budget_bytes(index) if machine is not None else 0
        left = budget - context_of(gpu).high_bytes - work - unknown
        room[index] = max(left // _MEGABYTE * _MEGABYTE, 0)
    return room


def _split(scenario: Scenario) -> str | None:
    strategy = strategy_of(scenario)
    return None if strategy == "device_map" else f"the strategy is {strategy}, not device_map"


def _has_gpu(scenario: Scenario) -> str | None:
    return None if gpus(scenario) else "no GPU was named"


def _plain_weights(scenario: Scenario) -> str | None:
    """Bitsandbytes raises "Some modules are dispatched on the CPU or the disk"."""
    if scenario.workload.loading.quantization is not None:
        return "bitsandbytes refuses modules in host memory or on disk"
    if scenario.model.quantization is not None:
        return f"{scenario.model.quantization.method} weights off the GPU are not known here"
    return None


def _over_gpus(scenario: Scenario, weights: LoadedWeights) -> dict[int | str, int] | str:
    """As much as each GPU has room for, where all of them together have room for everything."""
    room = room_for_weights(scenario, weights, divided=True)
    off = weights.allocated_bytes - sum(room.values())
    return f"the GPUs lack room for {format_bytes(off)} of the weights" if off > 0 else room


def _beside_work(scenario: Scenario, weights: LoadedWeights) -> tuple[dict[int | str, int], int]:
    """GPUs' room with the copy of one weight kept free, and what finds none."""
    kept = (_largest(weights) // _MEGABYTE + 1) * _MEGABYTE
    whole = room_for_weights(scenario, weights, divided=False)
    room = {index: max(amount - kept, 0) for index, amount in whole.items()}
    return room, weights.allocated_bytes - sum(room.values())


def _largest(weights: LoadedWeights) -> int:
    return max((row.weight_bytes for row in weights.rows), default=0)


def _on_host(scenario: Scenario, weights: LoadedWeights) -> int | None:
    """Host memory that loading itself leaves for weights; None where nobody said how much."""
    ram = scenario.machine.ram_bytes if scenario.machine is not None else None
    return None if ram is None else ram - loading_phase(weights, device_map=True).host_bytes


def _to_host(scenario: Scenario, weights: LoadedWeights) -> dict[int | str, int] | str:
    room, off = _beside_work(scenario, weights)
    host = _on_host(scenario, weights)
    if off <= 0:
        return "the GPUs have room for all weights"
    if host is not None and off > host:
        return f"{format_bytes(off)} would wait where host memory has {format_bytes(max(host, 0))}"
    return {**room, "cpu": weights.allocated_bytes if host is None else host}


def _to_disk(scenario: Scenario, weights: LoadedWeights) -> dict[int | str, int] | str:
    """Placement keeps room for a whole layer on the first GPU and on the host besides."""
    room, off = _beside_work(scenario, weights)
    host = _on_host(scenario, weights)
    if off <= 0:
        return "the GPUs have room for all weights"
    if host is None or off + 2 * len(room) * _largest(weights) <= host:
        return "host memory has room, or how much there is was not said (--ram)"
    return {**room, "cpu": max(host, 0), "disk": _DISK}


_Limits = Callable[[Scenario, LoadedWeights], "dict[int | str, int] | str"]
"""``max_memory`` of a scenario, or why there is none."""


def _placed(limits: _Limits, scenario: Scenario) -> Scenario | NotApplicable:
    """The scenario with limits computed from it; the reason where there are none, or the same."""
    loading = scenario.workload.loading
    try:
        found = limits(scenario, load_weights(scenario.model, loading, scenario.stack))
    except WillfitError as error:
        return NotApplicable(reason=str(error))
    if isinstance(found, str):
        return NotApplicable(reason=found)
    if found == loading.max_memory:
        return NotApplicable(reason="max_memory is so already")
    if not any(found[index] for index in range(len(gpus(scenario)))):
        return NotApplicable(reason="the work alone takes all that the GPUs have", for_now=True)
    return with_loading(scenario, max_memory=found)


def _after(limits: _Limits, *guards: Guard) -> Apply:
    """Guards first: limits take milliseconds to compute."""
    first = guarded(lambda asked: asked, infers, on_transformers, _has_gpu, _split, *guards)

    def apply(scenario: Scenario) -> Scenario | NotApplicable:
        asked = first(scenario)
        return asked if isinstance(asked, NotApplicable) else _placed(limits, scenario)

    return apply


MAX_MEMORY: Final = (
    Change(
        id="max_memory=gpus",
        setting="max_memory",
        title="Limit the weights on each GPU by what the work there leaves (max_memory)",
        apply=_after(_over_gpus, several),
    ),
    Change(
        id="max_memory=cpu",
        setting="max_memory",
        title="Leave what the GPUs have no room for in host memory (max_memory), which is slow",
        apply=_after(_to_host, _plain_weights),
    ),
    Change(
        id="max_memory=disk",
        setting="max_memory",
        title="Leave what neither GPUs nor host have room for on disk (offload_folder), which is "
        "very slow",
        apply=_after(_to_disk, _plain_weights),
    ),
)
