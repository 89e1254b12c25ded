"""The amount that a measurement is compared with, at either level, and the verdict beside it."""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.ledger.moments import moment_by_formula
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.releases import others, trace_under
from benchmarks.ledger.row import Demand, Expressed, RanOut
from benchmarks.ledger.traced import Traced, traced
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.estimator.uncertainty import uncertainty
from willfit.results import Estimate, Level
from willfit.scenario import Scenario


class Amounts(NamedTuple):
    """Nominal, and the ends that differ where something is unknown; bytes."""

    nominal: int
    low: int
    high: int


def estimated(result: Expressed, level: Level) -> Amounts:
    """What the counter would have read; raises `UnsupportedError` where the level has no code."""
    nominal = _amount(result, result.scenario, level)
    ends = [
        _amount(result, scenario, level)
        for scenario in (result.low_scenario, result.high_scenario)
        if scenario is not None
    ]
    low, high = min([nominal, *ends]), max([nominal, *ends])
    return Amounts(nominal, low + result.unknown_bytes[0], high + result.unknown_bytes[1])


def demands(result: Expressed | RanOut, level: Level) -> tuple[Demand, ...]:
    """Of the likeliest scenario, then of the ends, on the GPU with the least room for each.

    () where no card was named. An end under another release is not traced for it.
    """
    ends = [result.scenario]
    for scenario in (result.low_scenario, result.high_scenario):
        if scenario is not None and (level != "trace" or scenario.stack == result.scenario.stack):
            ends.append(scenario)
    return tuple(_demand(scenario, level) for scenario in ends if scenario.machine is not None)


def _demand(scenario: Scenario, level: Level) -> Demand:
    """What an estimate says without its uncertainty, which is made of the ledger itself."""
    found = _estimate(scenario, level)
    gpu = max(found.gpus, key=lambda gpu: gpu.peak.device_bytes - (gpu.budget_bytes or 0))
    context = sum(p.num_bytes for p in gpu.peak.components if p.name == "cuda_context")
    machine = scenario.machine
    assert machine is not None
    uncertain = uncertainty(scenario, level, machine.gpus[min(gpu.index, len(machine.gpus) - 1)])
    tensors = gpu.peak.device_bytes - context
    below, above = uncertain.ends(tensors)
    gets_through = gpu.high_device_bytes == gpu.budget_bytes  # a full card, less the upper part
    return Demand(
        low_bytes=gpu.low_device_bytes + below,
        high_bytes=gpu.peak.device_bytes if gets_through else gpu.high_device_bytes - above,
        tensor_bytes=0 if gets_through else tensors,
        budget_bytes=gpu.budget_bytes or 0,
        level=level,
        work=uncertain.work,
        wider=uncertain.wider,
        refused=found.refused is not None,
    )


_TRACED: Final[dict[str, Traced | UnsupportedError]] = {}
_MOST_KEPT: Final = 64


def _amount(result: Expressed, scenario: Scenario, level: Level) -> int:
    """What an end's release would add to the nominal one's trace is known to the formulas alone."""
    if level == "trace" and scenario.stack != result.scenario.stack:
        difference = _amount(result, scenario, "formula") - _amount(
            result, result.scenario, "formula"
        )
        return _amount(result, result.scenario, level) + difference
    moment = result.reading.moment if isinstance(result.reading, Reading) else None
    if level != "trace":
        found = _estimate(scenario, level)
        if moment is not None:
            return moment_by_formula(scenario, found, moment) + _besides(result)
        return result.reading(found)
    run = _trace(scenario)
    if isinstance(result.reading, Reading) and moment == "end_of_step":
        return _mean_of_ends(run, result.reading)
    if moment is not None:
        if moment not in run.moments:
            raise UnsupportedError(f"the traced run has no moment {moment!r}")
        return run.moments[moment] + _besides(result)
    return result.reading(run.estimate)


def _besides(result: Expressed) -> int:
    """What the counter held besides, as the source says."""
    return result.reading.plus_bytes if isinstance(result.reading, Reading) else 0


def _mean_of_ends(run: Traced, reading: Reading) -> int:
    """Allocated or reserved bytes, over the steps that the counter was read after."""
    if not run.step_ends:
        raise UnsupportedError("the traced run empties no cache: it has no end of a step")
    ends = [run.step_ends[number] for number in reading.ends]
    bytes_ = [end.reserved if reading.amount == "reserved" else end.allocated for end in ends]
    return round(sum(bytes_) / len(bytes_))


def _estimate(scenario: Scenario, level: Level) -> Estimate:
    if level == "trace":
        return _trace(scenario).estimate
    return estimate(scenario, search_limits=False)


def _trace(scenario: Scenario) -> Traced:
    """One trace; kept, for sources repeat their runs."""
    key = repr(scenario)  # whole: copies of one name differ in their config, such as a kernel
    if key not in _TRACED:
        while len(_TRACED) >= _MOST_KEPT:
            del _TRACED[next(iter(_TRACED))]
        other = others(scenario.stack)
        try:
            _TRACED[key] = trace_under(other, scenario) if other else traced(scenario)
        except UnsupportedError as error:
            _TRACED[key] = error
    found = _TRACED[key]
    if isinstance(found, UnsupportedError):
        raise found
    return found
