"""The outcome of a scenario by its trace: the real code's allocations through the allocator."""

from __future__ import annotations

from collections.abc import Callable

from willfit.errors import UnsupportedError
from willfit.estimator.assemble import Overheads, phase_estimate, usual_notes, with_range
from willfit.estimator.by_formula import outcome_by_formula
from willfit.estimator.outcome import Loaded, Outcome, by_type, unique, uses_device_map
from willfit.estimator.replay import ReplayedPhase, largest_alive, replay_on
from willfit.estimator.share import Share
from willfit.estimator.spread import strategy_of
from willfit.formulas.phase import ComponentName
from willfit.results import GpuEstimate
from willfit.scenario import Scenario
from willfit.trace.recording import Recording

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
    replayed = [
        _replayed(scenario, share, overheads, traced.recording)
        for share, overheads in zip(shares, loaded.overheads, strict=True)
    ]
    gpus = tuple(
        _gpu(scenario, share, overheads, phases)
        for share, overheads, phases in zip(shares, loaded.overheads, replayed, strict=True)
    )
    return Outcome(
        gpus=gpus,
        weights=loaded.weights,
        kv_cache_bytes=_kv_cache_bytes(scenario, loaded, replayed[0]),
        num_trainable_params=traced.num_trainable_params,
        host_bytes=max(phase.host_bytes for phase in loaded.phases),
        assumptions=unique(
            [*loaded.weights.assumptions, *loaded.split.assumptions, *traced.assumptions]
        ),
        unsupported=(),
        unknowns=scenario.model.unknowns,
        refused=loaded.split.refused,
        largest_alive=largest_alive(traced.recording, replayed[0]),
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


def _replayed(
    scenario: Scenario, share: Share, overheads: Overheads, recording: Recording
) -> tuple[ReplayedPhase, ...]:
    """The run on a device of this GPU's size."""
    capacity = None
    if scenario.machine is not None:
        capacity = scenario.machine.budget_bytes(share.index) - overheads.context_bytes
    return replay_on(recording, scenario.stack.alloc_conf, capacity)


def _gpu(
    scenario: Scenario, share: Share, overheads: Overheads, phases: tuple[ReplayedPhase, ...]
) -> GpuEstimate:
    notes: dict[ComponentName, str] = {
        **usual_notes(overheads, by_type(share.weights)),
        "workspaces": "cuBLAS",
    }
    estimates = [
        phase_estimate(
            phase.name,
            components=phase.components,
            reserved_bytes=phase.reserved_bytes,
            context_bytes=overheads.context_bytes,
            notes=notes,
        )
        for phase in phases
    ]
    return with_range(
        share.index,
        share.gpu,
        scenario.machine,
        estimates,
        overheads,
        scenario.model.unknowns,
        share.layers,
    )
