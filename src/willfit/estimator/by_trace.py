"""The outcome of a scenario by its trace: the real code's allocations through the allocator."""

from __future__ import annotations

from collections.abc import Callable

from willfit.devices import context_of
from willfit.errors import UnsupportedError
from willfit.estimator.assemble import phase_estimate
from willfit.estimator.by_formula import outcome_by_formula
from willfit.estimator.outcome import Loaded, Outcome, by_type, unique, uses_device_map
from willfit.estimator.replay import ReplayedPhase, largest_alive, replay_on
from willfit.estimator.share import Share
from willfit.estimator.spread import strategy_of
from willfit.formulas.phase import ComponentName
from willfit.results import GpuEstimate
from willfit.scenario import Scenario
from willfit.trace.recording import Recording

COPIES = ("device_map", "replicas")
"""Strategies under which every GPU that is used computes the whole model by itself."""


Listener = Callable[["Recording"], None]
"""Is given the recording of a trace, for pictures and snapshots of it."""


def outcome_by_trace(
    scenario: Scenario, loaded: Loaded, listener: Listener | None = None
) -> Outcome:
    """Trace one GPU's work; raises `UnsupportedError` on what the trace does not know."""
    _check(scenario, loaded)
    shares = loaded.split.shares
    try:
        from willfit.trace.trace import trace

        traced = trace(
            scenario, loaded.weights, shares[0].gpu, device_map=uses_device_map(scenario)
        )
    except ImportError as error:
        raise UnsupportedError(
            f"--trace runs the real code and lacks a library ({error}): "
            "pip install 'willfit[trace]', or leave --trace out"
        ) from None
    if listener is not None:
        listener(traced.recording)
    gpus = []
    for share, overheads in zip(shares, loaded.overheads, strict=True):
        capacity = None
        if share.gpu is not None and scenario.machine is not None:
            capacity = scenario.machine.budget_bytes(share.index) - overheads.context_bytes
        phases = replay_on(traced.recording, scenario.stack.alloc_conf, capacity)
        gpus.append(_gpu(scenario, share, phases))
    return Outcome(
        gpus=tuple(gpus),
        weights=loaded.weights,
        kv_cache_bytes=_kv_cache_bytes(scenario, loaded, phases),
        num_trainable_params=traced.num_trainable_params,
        host_bytes=max(phase.host_bytes for phase in loaded.phases),
        assumptions=unique(
            [*loaded.weights.assumptions, *loaded.split.assumptions, *traced.assumptions]
        ),
        unsupported=tuple(traced.recording.unsupported),
        unknowns=scenario.model.unknowns,
        refused=loaded.split.refused,
        largest_alive=largest_alive(traced.recording),
    )


def _check(scenario: Scenario, loaded: Loaded) -> None:
    """What the trace leaves to the formulas, said before seconds are spent."""
    shares = loaded.split.shares
    if any(share.stage is not None for share in shares):
        raise UnsupportedError(
            "the trace does not follow a model that is split over GPUs: leave --trace out, or "
            "name one GPU"
        )
    strategy = strategy_of(scenario)
    if len(shares) > 1 and scenario.workload.training is not None:
        raise UnsupportedError(
            f"the trace does not follow training on several GPUs (--strategy {strategy}): leave "
            "--trace out, or name one GPU"
        )


def _kv_cache_bytes(
    scenario: Scenario, loaded: Loaded, phases: tuple[ReplayedPhase, ...]
) -> int | None:
    """The whole cache by formula where the architecture is known, else as the last step held it."""
    if scenario.workload.inference is None:
        return None
    if scenario.model.architecture is not None:
        return outcome_by_formula(scenario, loaded).kv_cache_bytes
    held = [phase.components.get("kv_cache", 0) for phase in phases if phase.name == "decode"]
    return max(held, default=None)


def _gpu(scenario: Scenario, share: Share, phases: tuple[ReplayedPhase, ...]) -> GpuEstimate:
    context = context_of(share.gpu) if share.gpu is not None else None
    nominal = context.nominal_bytes if context else 0
    notes: dict[ComponentName, str] = {
        "weights": by_type(share.weights),
        "fragmentation": "reserved by the allocator but not allocated",
        "cuda_context": context.note if context else "",
        "workspaces": "cuBLAS",
    }
    estimates = tuple(
        phase_estimate(
            phase.name,
            components=phase.components,
            reserved_bytes=phase.reserved_bytes,
            context_bytes=nominal,
            notes=notes,
        )
        for phase in phases
    )
    peak = max(phase.device_bytes for phase in estimates)
    unknowns = scenario.model.unknowns
    machine = scenario.machine
    return GpuEstimate(
        index=share.index,
        name=share.gpu.name if share.gpu is not None else "",
        phases=estimates,
        capacity_bytes=share.gpu.capacity_bytes if share.gpu is not None else None,
        budget_bytes=machine.budget_bytes(share.index) if machine is not None else None,
        low_device_bytes=peak
        + sum(unknown.low_bytes for unknown in unknowns)
        - (nominal - context.low_bytes if context else 0),
        high_device_bytes=peak
        + sum(unknown.high_bytes for unknown in unknowns)
        + (context.high_bytes - nominal if context else 0),
        layers=share.layers,
    )
