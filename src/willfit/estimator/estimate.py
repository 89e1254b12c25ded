"""The estimate of a scenario by closed formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

from willfit.allocator.rounding import reserved_bytes
from willfit.devices import context_of
from willfit.estimator.assemble import Overheads, gpu_estimate
from willfit.estimator.dtype_table import dtype_rows
from willfit.estimator.limits import (
    LARGEST_BATCH,
    context_ceiling,
    largest,
    with_batch_size,
    with_context,
)
from willfit.estimator.share import Share, Spread
from willfit.estimator.spread import spread, strategy_of
from willfit.formulas.inference import inference_phases
from willfit.formulas.largest_layer import largest_layer
from willfit.formulas.loading import WARMUP_SINCE, loading_phase, simulate_loading
from willfit.formulas.phase import Phase, Phases
from willfit.formulas.weights import LoadedWeights, load_weights
from willfit.results import Estimate, GpuEstimate, HostEstimate, Limits
from willfit.scenario import Scenario
from willfit.scenario.model import Unknown
from willfit.units import format_bytes

SMALL_PART: Final = 0.01
"""Share of the weights below which a type is not worth a word."""


def estimate(
    scenario: Scenario,
    *,
    dtypes: Sequence[str] | None = None,
    assumptions: Sequence[str] = (),
    ignored_settings: Sequence[str] = (),
    search_limits: bool = True,
) -> Estimate:
    """What a scenario takes, by component, phase and GPU, and whether it fits.

    ``dtypes`` names the rows of the dtype table; ``search_limits`` also looks for the largest
    batch and context that fit. Raises `InputError` on settings that contradict each other or the
    model, `UnsupportedError` where no number can be given.
    """
    loaded = _load(scenario)
    outcome = _compute(scenario, loaded)
    layer, layer_bytes = largest_layer(scenario.model, outcome.weights)
    result = Estimate(
        level="formula",
        scenario=scenario,
        num_params=scenario.model.num_params,
        num_trainable_params=outcome.num_trainable_params,
        gpus=outcome.gpus,
        host=_host(scenario, outcome),
        kv_cache_bytes=outcome.kv_cache_bytes,
        largest_layer_bytes=layer_bytes,
        largest_layer=layer,
        dtypes=dtype_rows(scenario.model, scenario.stack, dtypes),
        assumptions=_unique([*assumptions, *scenario.model.assumptions, *outcome.assumptions]),
        unsupported=_unique(outcome.unsupported),
        unknowns=outcome.unknowns,
        ignored_settings=tuple(ignored_settings),
        refused=outcome.refused,
        notes=_notes(scenario),
    )
    return replace(result, limits=_limits(scenario, result, loaded)) if search_limits else result


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """A scenario after loading, whatever is done with the model next."""

    weights: LoadedWeights
    split: Spread
    phases: tuple[Phase, ...]
    """The loading phase of each share."""
    overheads: tuple[Overheads, ...]
    """What each share's GPU holds besides tensors."""


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    gpus: tuple[GpuEstimate, ...]
    weights: LoadedWeights
    kv_cache_bytes: int | None
    num_trainable_params: int
    host_bytes: int
    assumptions: tuple[str, ...]
    unsupported: tuple[str, ...]
    unknowns: tuple[Unknown, ...]
    refused: str | None


def _load(scenario: Scenario) -> _Loaded:
    """Weights, their spread over the GPUs and what loading leaves on each."""
    weights = load_weights(scenario.model, scenario.workload.loading, scenario.stack)
    split = spread(scenario, weights)
    device_map = _uses_device_map(scenario)
    return _Loaded(
        weights=weights,
        split=split,
        phases=tuple(loading_phase(share.weights, device_map=device_map) for share in split.shares),
        overheads=tuple(_overheads(share, scenario, device_map) for share in split.shares),
    )


def _compute(scenario: Scenario, loaded: _Loaded) -> _Outcome:
    """Everything but the tables: cheap enough to be called by the search for limits."""
    weights, split = loaded.weights, loaded.split
    results = [
        replace(rest, phases=(load, *rest.phases))
        for load, rest in zip(
            loaded.phases,
            (_work(scenario, share, len(split.shares)) for share in split.shares),
            strict=True,
        )
    ]
    gpus = tuple(
        _gpu(scenario, share, phases, overheads)
        for share, phases, overheads in zip(split.shares, results, loaded.overheads, strict=True)
    )
    every = reduce(_merged, results)
    return _Outcome(
        gpus=gpus,
        weights=weights,
        kv_cache_bytes=_kv_cache_bytes(results, copies=split.shares[0].stage is None),
        num_trainable_params=max(phases.num_trainable_params for phases in results),
        host_bytes=split.host_weight_bytes
        + max((phase.host_bytes for result in results for phase in result.phases), default=0),
        assumptions=(*weights.assumptions, *split.assumptions, *every.assumptions),
        unsupported=every.unsupported,
        unknowns=(*scenario.model.unknowns, *every.unknowns),
        refused=split.refused,
    )


def _work(scenario: Scenario, share: Share, num_gpus: int) -> Phases:
    """What is done with the loaded model on one GPU."""
    workload = scenario.workload
    if workload.training is not None:
        from willfit.formulas.training import training_phases

        return training_phases(
            scenario.model,
            workload.training,
            share.gpu,
            scenario.stack,
            share.weights,
            strategy=strategy_of(scenario),
            num_gpus=num_gpus,
        )
    if workload.inference is not None:
        return inference_phases(
            scenario.model,
            workload.inference,
            share.gpu,
            scenario.stack,
            share.weights,
            share.stage,
        )
    return Phases(phases=())


def _uses_device_map(scenario: Scenario) -> bool:
    """A Trainer loads to the host and moves; bitsandbytes always loads with a device_map."""
    quantized = scenario.workload.loading.quantization is not None
    return scenario.workload.training is None or quantized


def _overheads(share: Share, scenario: Scenario, device_map: bool) -> Overheads:
    """The context, and what the allocator keeps reserved after loading above the tensors.

    Loading with a device_map is simulated. Its warm-up block leaves one hole, which later tensors
    fill; without one the ends of the weights' segments stay too small for anything else.
    """
    context = context_of(share.gpu) if share.gpu is not None else None
    weights, stack = share.weights, scenario.stack
    retained = simulate_loading(weights, share.gpu, stack).reserved_bytes if device_map else 0
    warmed = device_map and stack.at_least("transformers", WARMUP_SINCE)
    padding = 0 if warmed else reserved_bytes(weights.sizes()) - weights.allocated_bytes
    return Overheads(
        padding_bytes=max(padding, 0),
        context_bytes=context.nominal_bytes if context else 0,
        context_low_bytes=context.low_bytes if context else 0,
        context_high_bytes=context.high_bytes if context else 0,
        context_note=context.note if context else "",
        retained_bytes=retained,
    )


def _gpu(scenario: Scenario, share: Share, phases: Phases, overheads: Overheads) -> GpuEstimate:
    return gpu_estimate(
        share.index,
        share.gpu,
        scenario.machine,
        phases.phases,
        overheads,
        (*scenario.model.unknowns, *phases.unknowns),
        share.layers,
        _by_type(share.weights),
    )


def _by_type(weights: LoadedWeights) -> str:
    """In words, what the weights are held in, where that is more than one type."""
    large = {
        name: amount
        for name, amount in weights.bytes_by_type().items()
        if amount > weights.weight_bytes * SMALL_PART
    }
    parts = [f"{format_bytes(amount)} {name}" for name, amount in large.items()]
    return ", ".join(parts) if len(parts) > 1 else ""


def _merged(first: Phases, second: Phases) -> Phases:
    return Phases(
        phases=(),
        assumptions=_unique([*first.assumptions, *second.assumptions]),
        unsupported=_unique([*first.unsupported, *second.unsupported]),
        unknowns=tuple(dict.fromkeys([*first.unknowns, *second.unknowns])),
    )


def _kv_cache_bytes(results: Sequence[Phases], *, copies: bool) -> int | None:
    """The cache of the whole context: parts of a split add up, copies of a model do not."""
    caches = [
        phase.components.get("kv_cache", 0)
        for result in results
        for phase in result.phases
        if phase.name == "decode"
    ]
    if not caches:
        return None
    return max(caches) if copies else sum(caches)


def _host(scenario: Scenario, outcome: _Outcome) -> HostEstimate:
    disk = sum(
        row.dtype.num_bytes(row.num_elements) * row.count
        for row in scenario.model.tensors
        if row.tied_to is None
    )
    machine = scenario.machine
    fits: bool | None = None
    if machine is not None and (machine.ram_bytes is not None or machine.disk_bytes is not None):
        ram_fits = machine.ram_bytes is None or outcome.host_bytes <= machine.ram_bytes
        fits = ram_fits and (machine.disk_bytes is None or disk <= machine.disk_bytes)
    return HostEstimate(ram_bytes=outcome.host_bytes, pinned_bytes=0, disk_bytes=disk, fits=fits)


def _limits(scenario: Scenario, result: Estimate, loaded: _Loaded) -> Limits:
    """The largest batch and the largest context that fit, each with everything else unchanged."""
    if scenario.machine is None or scenario.workload.task == "load" or result.refused:
        return Limits()

    def fits(changed: Scenario) -> bool:
        outcome = _compute(changed, loaded)
        return all(bool(gpu.fits) for gpu in outcome.gpus)

    return Limits(
        batch_size=largest(lambda n: fits(with_batch_size(scenario, n)), ceiling=LARGEST_BATCH),
        context_len=largest(
            lambda n: fits(with_context(scenario, n)), ceiling=context_ceiling(scenario)
        ),
    )


def _notes(scenario: Scenario) -> dict[str, str]:
    """What the Trainer would do with several GPUs in a notebook, where nobody launches ranks.

    transformers 5.23 training_args.py `_setup_devices`, trainer.py `_wrap_model`: DataParallel
    unless the model was loaded in 4 or 8 bit, which stays on one GPU.
    """
    machine, workload = scenario.machine, scenario.workload
    several = machine is not None and len(machine.gpus) > 1
    if workload.training is None or not several or workload.loading.strategy is not None:
        return {}
    if workload.loading.quantization is not None:
        what = (
            "in a notebook the Trainer leaves all GPUs but the first idle for bitsandbytes models"
        )
    else:
        what = "in a notebook the Trainer uses DataParallel (--strategy dp): GPU 0 gathers outputs"
    return {"notebook": f"{what}; ddp needs accelerate launch or notebook_launcher"}


def _unique(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
