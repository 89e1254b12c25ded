"""A scenario after loading, and what an estimate at any level finds out about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from willfit.allocator.rounding import reserved_bytes
from willfit.devices import context_of
from willfit.estimator.assemble import Overheads
from willfit.estimator.share import Share, Spread
from willfit.estimator.spread import spread, strategy_of
from willfit.formulas.loading import WARMUP_SINCE, loading_phase, simulate_loading
from willfit.formulas.phase import Phase
from willfit.formulas.weights import LoadedWeights, load_weights
from willfit.identity import by_identity
from willfit.results import Alive, Failure, GpuEstimate, Level
from willfit.scenario import Scenario
from willfit.scenario.model import Unknown
from willfit.units import format_bytes

SHARDED: Final = ("fsdp", "zero3")
"""Strategies under which no GPU ever holds the whole model."""
RANKS: Final = ("ddp", "zero1", "zero2")
"""Strategies under which every GPU has a process that loads the whole model."""
SMALL_PART: Final = 0.01
"""Share of the weights below which a type is not worth a word."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A scenario after loading, whatever is done with the model next."""

    weights: LoadedWeights
    split: Spread
    phases: tuple[Phase, ...]
    """The loading phase of each share."""
    overheads: tuple[Overheads, ...]
    """What each share's GPU holds besides tensors."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is found of the GPUs and the host."""

    level: Level
    gpus: tuple[GpuEstimate, ...]
    weights: LoadedWeights
    kv_cache_bytes: int | None
    num_trainable_params: int
    host_bytes: int
    assumptions: tuple[str, ...]
    unsupported: tuple[str, ...]
    unknowns: tuple[Unknown, ...]
    refused: str | None
    pinned_bytes: int = 0
    """The part of host_bytes that is page-locked."""
    failure: Failure | None = None
    largest_alive: tuple[Alive, ...] = ()
    off_gpu: tuple[int, int] = (0, 0)
    """Bytes of weights left in host memory and on disk."""


def load(scenario: Scenario) -> Loaded:
    """Weights, their spread over the GPUs and what loading leaves on each."""
    weights = load_weights(scenario.model, scenario.workload.loading, scenario.stack)
    split = spread(scenario, weights)
    device_map = uses_device_map(scenario)
    return Loaded(
        weights=weights,
        split=split,
        phases=tuple(_loading(share, scenario, device_map) for share in split.shares),
        overheads=tuple(_overheads(share, scenario, device_map) for share in split.shares),
    )


def _loading(share: Share, scenario: Scenario, device_map: bool) -> Phase:
    """The loading phase; what is sharded later is loaded to the host and reaches a GPU as a shard.

    transformers 5.23 Trainer: the model is built on the host and wrapped by FSDP or DeepSpeed.
    """
    machine = scenario.machine
    sharded = scenario.workload.training is not None and strategy_of(scenario) in SHARDED
    if not sharded or machine is None or packs_on_gpu(scenario):
        phase = loading_phase(share.weights, device_map=device_map)
        return replace(
            phase, host_bytes=phase.host_bytes * _host_copies(scenario, share, device_map)
        )
    part = loading_phase(share.weights.scaled(len(machine.gpus)), device_map=False)
    return replace(part, host_bytes=share.weights.weight_bytes)


def packs_on_gpu(scenario: Scenario) -> bool:
    """Whether every rank packs all of the weights on its GPU, before FSDP takes its part of them.

    bitsandbytes loads to the current device where no device_map is given (seen on an H200 with
    transformers 5.23; releases before 5 are a lead). A loop of one's own loads as it likes.
    """
    work = scenario.workload
    own = work.training is not None and work.training.trainer == "loop"
    packed = work.loading.quantization is not None
    return packed and not own and scenario.stack.at_least("transformers", "5.0")


def _host_copies(scenario: Scenario, share: Share, device_map: bool) -> int:
    """Copies of the weights in host memory where every rank loads there before it moves them.

    A checkpoint loaded as it is stored stays a private mapping of its file, whose pages all ranks
    share (safetensors 0.6 `UntypedStorage.from_file`); another type is a copy of each rank's own.
    """
    if device_map or strategy_of(scenario) not in RANKS:
        return 1
    return scenario.num_gpus if share.weights.dtype is not scenario.model.stored_dtype else 1


def loading_of_one(scenario: Scenario, weights: LoadedWeights) -> Phase:
    """The loading phase of a GPU that holds the whole model."""
    return loading_phase(weights, device_map=uses_device_map(scenario))


def uses_device_map(scenario: Scenario) -> bool:
    """A Trainer loads to the host and moves; bitsandbytes always loads with a device_map."""
    quantized = scenario.workload.loading.quantization is not None
    placed = strategy_of(scenario) == "device_map"
    return scenario.workload.training is None or quantized or placed


def _overheads(share: Share, scenario: Scenario, device_map: bool) -> Overheads:
    """The context, and what the allocator keeps reserved after loading above the tensors.

    Loading with a device_map is simulated. Its warm-up block leaves one hole, which later tensors
    fill; without one the ends of the weights' segments stay too small for anything else.
    """
    context = context_of(share.gpu) if share.gpu is not None else None
    weights, stack = share.weights, scenario.stack
    retained = simulate_loading(weights, share.gpu, stack).reserved_bytes if device_map else 0
    warmed = device_map and stack.at_least("transformers", WARMUP_SINCE)
    padding = 0 if warmed else _segment_ends(weights)
    return Overheads(
        padding_bytes=max(padding, 0),
        context_bytes=context.nominal_bytes if context else 0,
        context_low_bytes=context.low_bytes if context else 0,
        context_high_bytes=context.high_bytes if context else 0,
        context_note=context.note if context else "",
        retained_bytes=retained,
    )


@by_identity(64)
def _segment_ends(weights: LoadedWeights) -> int:
    """Bytes that the segments of the weights reserve and do not fill."""
    return reserved_bytes(weights.sizes()) - weights.allocated_bytes


@by_identity(64)
def by_type(weights: LoadedWeights) -> str:
    """In words, what the weights are held in, where that is more than one type."""
    large = {
        name: amount
        for name, amount in weights.bytes_by_type().items()
        if amount > weights.weight_bytes * SMALL_PART
    }
    parts = [f"{format_bytes(amount)} {name}" for name, amount in large.items()]
    return ", ".join(parts) if len(parts) > 1 else ""


def unique(items: Sequence[str]) -> tuple[str, ...]:
    """The items once each, in their order."""
    return tuple(dict.fromkeys(items))
