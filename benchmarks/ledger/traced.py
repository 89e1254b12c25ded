"""One traced run: its estimate, and what was allocated at its moments."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.ledger.moments import Moment, StepEnd, moments_traced, step_ends
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.trace.recording import Recording


class Traced(NamedTuple):
    """What a trace says."""

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
    return Traced(found, moments_traced(recordings[0]), ends)
