"""The outcome of a scenario by closed formulas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce

from willfit.estimator.assemble import Overheads, gpu_estimate
from willfit.estimator.outcome import Loaded, Outcome, by_type, unique
from willfit.estimator.share import Share
from willfit.estimator.spread import strategy_of
from willfit.estimator.uncertainty import uncertainty
from willfit.formulas.inference import inference_phases
from willfit.formulas.phase import Phases
from willfit.results import GpuEstimate
from willfit.scenario import Scenario


def outcome_by_formula(scenario: Scenario, loaded: Loaded) -> Outcome:
    """Everything but the tables: cheap enough to be called by the search for limits."""
    weights, split = loaded.weights, loaded.split
    results = [
        replace(rest, phases=(load, *rest.phases))
        for load, rest in zip(loaded.phases, _works(scenario, split.shares), strict=True)
    ]
    gpus = tuple(_gpus(scenario, split.shares, results, loaded.overheads))
    every = reduce(_merged, results)
    return Outcome(
        level="formula",
        gpus=gpus,
        weights=weights,
        kv_cache_bytes=_kv_cache_bytes(results, copies=split.shares[0].stage is None),
        num_trainable_params=max(phases.num_trainable_params for phases in results),
        host_bytes=split.host_weight_bytes
        + max((phase.host_bytes for result in results for phase in result.phases), default=0),
        pinned_bytes=max(phase.pinned_bytes for result in results for phase in result.phases),
        assumptions=(*weights.assumptions, *split.assumptions, *every.assumptions),
        unsupported=every.unsupported,
        unknowns=(*scenario.model.unknowns, *every.unknowns),
        refused=split.refused,
        off_gpu=(split.host_weight_bytes, split.disk_weight_bytes),
    )


def _works(scenario: Scenario, shares: Sequence[Share]) -> Iterator[Phases]:
    """What each GPU does; equal GPUs with the same part of the model are computed once."""
    done: dict[tuple[object, ...], Phases] = {}
    gathers = strategy_of(scenario) == "dp"
    for share in shares:
        first = gathers and share.index == 0
        same = (id(share.weights), id(share.gpu), id(share.stage), first)
        if same not in done:
            done[same] = work_of(scenario, share, len(shares))
        yield done[same]


def work_of(scenario: Scenario, share: Share, num_gpus: int) -> Phases:
    """What one GPU does; a replica of DataParallel has neither gradients nor an optimizer.

    torch/nn/parallel: replicas are copies made in every forward, their gradients are added up on
    the first device.
    """
    phases = _work(scenario, share, num_gpus)
    if scenario.workload.training is None or strategy_of(scenario) != "dp" or share.index == 0:
        return phases
    first_only = ("gradients", "optimizer_states")
    kept = [
        replace(
            phase,
            components={k: v for k, v in phase.components.items() if k not in first_only},
        )
        for phase in phases.phases
        if phase.name not in ("clip", "step")
    ]
    return replace(phases, phases=tuple(kept))


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


def _gpus(
    scenario: Scenario,
    shares: Sequence[Share],
    results: Sequence[Phases],
    overheads: Sequence[Overheads],
) -> Iterator[GpuEstimate]:
    """One after the other; one that is as the last in all but its number is that again."""
    machine = scenario.machine
    last: tuple[object, ...] = ()
    for share, phases, overhead in zip(shares, results, overheads, strict=True):
        in_use = machine.in_use(share.index) if machine is not None else 0
        same = (id(share.gpu), share.layers, in_use, overhead, phases.phases)
        if same != last:
            made = _gpu(scenario, share, phases, overhead)
        last = same
        yield replace(made, index=share.index)


def _gpu(scenario: Scenario, share: Share, phases: Phases, overheads: Overheads) -> GpuEstimate:
    return gpu_estimate(
        share.index,
        share.gpu,
        scenario.machine,
        phases.phases,
        overheads,
        (*scenario.model.unknowns, *phases.unknowns),
        uncertainty(scenario, "formula", share.gpu),
        share.layers,
        by_type(share.weights),
    )


def _merged(first: Phases, second: Phases) -> Phases:
    return Phases(
        phases=(),
        assumptions=unique([*first.assumptions, *second.assumptions]),
        unsupported=unique([*first.unsupported, *second.unsupported]),
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
