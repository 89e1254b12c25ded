"""One traced run: its estimate, and what was allocated at its moments."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.ledger.moments import (
    Moment,
    StepEnd,
    moments_traced,
    reserved_at_end,
    step_ends,
)
from willfit.allocator.simulator import SimulatedOutOfMemory
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.trace.recording import Recording


class Traced(NamedTuple):
    """What a trace says; at "end" reserved bytes, at every other moment allocated ones."""

    estimate: Estimate
    moments: dict[Moment, int]
    step_ends: tuple[StepEnd, ...] = ()
    """At each emptying of the cache, where a plain loop does that."""


def traced(scenario: Scenario) -> Traced:
    """By the installed libraries; raises `UnsupportedError` where they cannot be traced."""
    recordings: list[Recording] = []
    found = estimate(scenario, trace=True, listener=recordings.append)
    if found.level != "trace":
        raise UnsupportedError("; ".join(found.unsupported) or "it cannot be traced")
    if not recordings:
        return Traced(found, {})
    emptied = scenario.workload.training is not None and bool(
        scenario.workload.training.empties_cache_every
    )
    ends = step_ends(recordings[0]) if emptied else ()
    moments = {**moments_traced(recordings[0]), **_end(recordings[0], scenario, found)}
    return Traced(found, moments, ends)


def _end(recording: Recording, scenario: Scenario, found: Estimate) -> dict[Moment, int]:
    """Of one GPU; below its budget nothing is ever given back."""
    gpu = found.gpus[0]
    if len(found.gpus) > 1 or gpu.budget_bytes is None:
        return {}
    context = gpu.peak.device_bytes - gpu.peak.reserved_bytes
    if gpu.peak.device_bytes < 0.9 * gpu.budget_bytes:
        return {"end": max(phase.reserved_bytes for phase in gpu.phases)}
    try:
        capacity = gpu.budget_bytes - context
        return {"end": reserved_at_end(recording, scenario.stack.alloc_conf, capacity)}
    except SimulatedOutOfMemory:
        return {}
