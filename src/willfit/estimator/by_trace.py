"""The outcome of a scenario by its trace: the real code's allocations through the allocator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from willfit.errors import InputError, MissingLibraryError, UnsupportedError
from willfit.estimator.alive import largest_alive
from willfit.estimator.assemble import Overheads, phase_estimate, usual_notes, with_range
from willfit.estimator.by_formula import outcome_by_formula
from willfit.estimator.outcome import Loaded, Outcome, by_type, unique, uses_device_map
from willfit.estimator.ranks import Rank, Ranks, ranks_of
from willfit.estimator.replay import (
    OutOfMemoryAt,
    Replayed,
    ReplayedPhase,
    replay,
    replay_on,
)
from willfit.estimator.share import Share
from willfit.estimator.uncertainty import uncertainty
from willfit.formulas.phase import ComponentName
from willfit.formulas.weights import load_weights
from willfit.results import GpuEstimate
from willfit.scenario import Scenario
from willfit.trace.recording import Recording

Listener = Callable[["Recording"], None]
"""Is given the recording of a trace, for pictures and snapshots of it."""


def outcome_by_trace(
    scenario: Scenario, loaded: Loaded, listener: Listener | None = None
) -> Outcome:
    """Trace the work of one process; raises `UnsupportedError` on what the trace does not know.

    A placement that the libraries refuse runs nowhere: its outcome is the formulas'.
    """
    if loaded.split.refused is not None:
        return outcome_by_formula(scenario, loaded)
    inference = scenario.workload.inference
    if inference is not None and inference.engine != "transformers":
        raise UnsupportedError(
            f"the trace runs transformers' code, not {inference.engine}'s: leave --trace out"
        )
    shares, placement = loaded.split.shares, loaded.split.device_map
    gpus = [share.gpu for share in (shares if placement is not None else shares[:1])]
    ranks = ranks_of(scenario, loaded)
    try:
        from willfit.trace.trace import trace

        alone, weights = scenario, loaded.weights
        if ranks is not None and ranks.alone is not scenario:
            alone = ranks.alone
            weights = load_weights(alone.model, alone.workload.loading, alone.stack)
        traced = trace(
            alone,
            weights,
            gpus,
            loads_to_gpu=uses_device_map(scenario),
            placement=placement,
        )
    except ImportError as error:
        raise MissingLibraryError(
            f"--trace runs the real code and lacks a library ({error}): "
            "pip install 'willfit[trace]', or leave --trace out"
        ) from None
    if ranks is not None:
        recordings = ranks.recordings(traced.recording)
    elif len(gpus) > 1:
        recordings = [traced.recording.on(share.index) for share in shares]
    else:
        recordings = [traced.recording for _ in shares]
    if listener is not None:
        listener(recordings[0] if ranks is not None else traced.recording)
    sizes = [
        _size(scenario, share, overheads)
        for share, overheads in zip(shares, loaded.overheads, strict=True)
    ]
    results = _replays(recordings, sizes, scenario.stack.alloc_conf)
    if ranks is not None:
        results = [
            _of_rank(rank, result) for rank, result in zip(ranks.ranks, results, strict=True)
        ]
    estimates: list[GpuEstimate] = []
    made: dict[tuple[object, ...], GpuEstimate] = {}
    for share, overheads, recording, size, result in zip(
        shares, loaded.overheads, recordings, sizes, results, strict=True
    ):
        same = (id(recording), size, id(share.gpu), id(share.weights), share.layers, overheads)
        if same not in made:
            gpu = _gpu(scenario, share, overheads, result.phases, ranks)
            made[same] = _squeezed(gpu, recording, result, overheads, scenario.stack.alloc_conf)
        estimates.append(replace(made[same], index=share.index))
    fullest = max(range(len(shares)), key=lambda index: _demand(estimates[index]))
    host, disk = loaded.split.host_weight_bytes, loaded.split.disk_weight_bytes
    host_bytes, pinned_bytes = _on_host(scenario, loaded)
    return Outcome(
        level="trace",
        gpus=tuple(estimates),
        weights=loaded.weights,
        kv_cache_bytes=_kv_cache_bytes(scenario, loaded, [r.phases for r in results]),
        num_trainable_params=traced.num_trainable_params,
        host_bytes=host_bytes,
        pinned_bytes=pinned_bytes,
        assumptions=unique(
            [
                *loaded.weights.assumptions,
                *loaded.split.assumptions,
                *traced.assumptions,
                *((ranks.note,) if ranks is not None else ()),
            ]
        ),
        unsupported=(),
        unknowns=scenario.model.unknowns,
        refused=None,
        failure=next(
            (
                replace(result.failure, gpu_index=share.index)
                for share, result in zip(shares, results, strict=True)
                if result.failure is not None
            ),
            None,
        ),
        largest_alive=largest_alive(recordings[fullest], results[fullest].phases),
        off_gpu=(host, disk),
    )


def _on_host(scenario: Scenario, loaded: Loaded) -> tuple[int, int]:
    """Host bytes and the page-locked part, by formula where there is one: GPUs alone are traced."""
    known = scenario.model.architecture is not None
    try:
        outcome = outcome_by_formula(scenario, loaded) if known else None
    except (InputError, UnsupportedError):  # what the formulas refuse may run all the same
        outcome = None
    if outcome is not None:
        return outcome.host_bytes, outcome.pinned_bytes
    loading = max(phase.host_bytes for phase in loaded.phases)
    return loaded.split.host_weight_bytes + loading, 0


def _demand(gpu: GpuEstimate) -> int:
    """Bytes over the budget, or in all where there is none."""
    return gpu.peak.device_bytes - (gpu.budget_bytes or 0)


def _kv_cache_bytes(
    scenario: Scenario, loaded: Loaded, replayed: Sequence[Sequence[ReplayedPhase]]
) -> int | None:
    """The whole cache by formula where the architecture is known, else as the last step held it."""
    if scenario.workload.inference is None:
        return None
    if scenario.model.architecture is not None:
        return outcome_by_formula(scenario, loaded).kv_cache_bytes
    split = loaded.split.device_map is not None
    held = [
        max((p.components.get("kv_cache", 0) for p in phases if p.name == "decode"), default=None)
        for phases in (replayed if split else replayed[:1])
    ]
    known = [amount for amount in held if amount is not None]
    return sum(known) if known else None


Size = tuple[int | None, int | None]
"""What a process may take of a GPU, and its total."""


def _size(scenario: Scenario, share: Share, overheads: Overheads) -> Size:
    machine, gpu = scenario.machine, share.gpu
    if machine is None or gpu is None:
        return None, None
    return machine.budget_bytes(share.index) - overheads.context_bytes, gpu.capacity_bytes


def _replays(
    recordings: Sequence[Recording], sizes: Sequence[Size], alloc_conf: str
) -> list[Replayed]:
    """The run on each GPU; equal GPUs that run the same are replayed once."""
    done: dict[tuple[int, Size], Replayed] = {}
    for recording, size in zip(recordings, sizes, strict=True):
        if (id(recording), size) not in done:
            done[id(recording), size] = replay_on(recording, alloc_conf, *size)
    return [done[id(r), size] for r, size in zip(recordings, sizes, strict=True)]


def _of_rank(rank: Rank, result: Replayed) -> Replayed:
    """Without the phases that the rank does not go through."""
    return replace(result, phases=tuple(p for p in result.phases if rank.has(p.name)))


def _squeezed(
    gpu: GpuEstimate,
    recording: Recording,
    result: Replayed,
    overheads: Overheads,
    alloc_conf: str,
) -> GpuEstimate:
    """The high end no more than the budget where the run gets through with that much less room.

    What is reserved without being allocated is given back where the device is full, so the range's
    upper part is not added to it: the run is replayed on a device smaller by that part.
    """
    budget, high = gpu.budget_bytes, gpu.high_device_bytes
    full = budget is not None and gpu.peak.device_bytes <= budget < high
    if result.failure is not None or budget is None or not full:
        return gpu
    more = high - gpu.peak.device_bytes
    try:
        replay(recording, alloc_conf, budget - overheads.context_bytes - more, gpu.capacity_bytes)
    except OutOfMemoryAt:
        return gpu
    return replace(gpu, high_device_bytes=budget)


def _gpu(
    scenario: Scenario,
    share: Share,
    overheads: Overheads,
    phases: Sequence[ReplayedPhase],
    ranks: Ranks | None,
) -> GpuEstimate:
    notes: dict[ComponentName, str] = {
        **usual_notes(overheads, by_type(share.weights)),
        "workspaces": "cuBLAS",
        **(ranks.notes if ranks is not None else {}),
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
        uncertainty(scenario, "trace", share.gpu),
        share.layers,
    )
