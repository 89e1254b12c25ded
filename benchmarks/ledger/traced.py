"""One traced run: its estimate, and what was allocated at its moments."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.ledger.moments import Moment, moments_traced
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.trace.recording import Recording


class Traced(NamedTuple):
    """What a trace says."""

    estimate: Estimate
    moments: dict[Moment, int]


def traced(scenario: Scenario) -> Traced:
    """By the installed libraries; raises `UnsupportedError` where they cannot be traced."""
    recordings: list[Recording] = []
    found = estimate(scenario, trace=True, listener=recordings.append)
    if found.level != "trace":
        raise UnsupportedError("; ".join(found.unsupported) or "it cannot be traced")
    return Traced(found, moments_traced(recordings[0]) if recordings else {})
