"""The amount that a measurement is compared with, at either level."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.ledger.moments import Moment, moment_by_formula, moments_traced
from benchmarks.ledger.releases import estimate_under, others
from benchmarks.ledger.row import Expressed
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.results import Estimate, Level
from willfit.scenario import Scenario
from willfit.trace.recording import Recording


def estimated(result: Expressed, level: Level) -> tuple[int, int, int]:
    """Nominal, smallest and largest bytes; the last two differ where something is unknown."""
    nominal = _amount(result, result.scenario, level)
    ends = [
        _amount(result, scenario, level)
        for scenario in (result.low_scenario, result.high_scenario)
        if scenario is not None
    ]
    low, high = min([nominal, *ends]), max([nominal, *ends])
    return nominal, low + result.unknown_bytes[0], high + result.unknown_bytes[1]


class _Traced(NamedTuple):
    estimate: Estimate
    moments: dict[Moment, int]


_TRACED: dict[str, _Traced | UnsupportedError] = {}


def _amount(result: Expressed, scenario: Scenario, level: Level) -> int:
    """The trace runs one release; what another one would add is known to the formulas alone."""
    if level == "trace" and scenario.stack != result.scenario.stack:
        difference = _amount(result, scenario, "formula") - _amount(
            result, result.scenario, "formula"
        )
        return _amount(result, result.scenario, level) + difference
    if level != "trace":
        found = estimate(scenario, search_limits=False)
        if result.moment is not None:
            return moment_by_formula(scenario, found, result.moment)
        return result.reading(found)
    traced = _trace(scenario)
    if result.moment is not None:
        return traced.moments[result.moment]
    return result.reading(traced.estimate)


def _trace(scenario: Scenario) -> _Traced:
    """One trace; kept, for sources repeat their runs."""
    other = others(scenario.stack)
    key = f"{scenario.model.id} {scenario.workload!r} {scenario.machine!r} {other}"
    if key not in _TRACED:
        try:
            _TRACED[key] = (
                _Traced(estimate_under(other, scenario), {}) if other else _traced_here(scenario)
            )
        except UnsupportedError as error:
            _TRACED[key] = error
    traced = _TRACED[key]
    if isinstance(traced, UnsupportedError):
        raise traced
    return traced


def _traced_here(scenario: Scenario) -> _Traced:
    recordings: list[Recording] = []
    found = estimate(scenario, trace=True, listener=recordings.append)
    return _Traced(found, moments_traced(recordings[0]))
