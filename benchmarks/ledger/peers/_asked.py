"""What another tool is asked about a measurement: a scenario, and which counter it is held to."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final, Literal

from benchmarks.ledger.reading import Amount, Reading
from benchmarks.ledger.row import Expressed
from willfit.errors import WillfitError
from willfit.estimator import estimate
from willfit.scenario import Scenario, Workload

_KNOWN: Final = frozenset({"amount", "phases", "without", "gpus", "plus_bytes", "moment"})
"""Fields of a `Reading` that a peak by another tool can be compared through."""
_AMOUNTS: Final[tuple[Amount, ...]] = ("allocated", "reserved", "device")
_OVER: Final[tuple[Literal["fullest", "sum"], ...]] = ("fullest", "sum")
_LAST_OF_TRAINING: Final = frozenset({"backward", "step", "clip"})
"""Phases one of which holds the peak of a training run."""
_ONE_COPY: Final = frozenset({"ddp", "dp", "replicas"})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question."""

    scenario: Scenario
    low_scenario: Scenario | None
    high_scenario: Scenario | None
    counter: Amount
    plus_bytes: int
    """What the source's counter held besides, where the source says how much."""
    unknown_bytes: tuple[int, int]
    window: tuple[str, ...]
    """Equal for counters of the same stretch of the same run."""


def asked(result: Expressed) -> Asked | None:
    """The question; None where no tool that gives one peak can be held to the measurement."""
    reading = result.reading if isinstance(result.reading, Reading) else _recognised(result)
    if reading is None or not _is_of_the_whole(reading, result.scenario):
        return None
    if result.unknown_bytes[1] < 0:  # something is taken off for certain
        return None
    loads = reading.moment == "loaded" or reading.phases == ("load",)
    scenarios = [
        None if s is None else _of_one_copy(_loading(s) if loads else s, reading)
        for s in (result.scenario, result.low_scenario, result.high_scenario)
    ]
    assert scenarios[0] is not None
    return Asked(
        scenario=scenarios[0],
        low_scenario=scenarios[1],
        high_scenario=scenarios[2],
        counter="allocated" if reading.moment else reading.amount,
        plus_bytes=reading.plus_bytes,
        unknown_bytes=result.unknown_bytes,
        window=("load",) if loads else ("run", *reading.phases, "but", *reading.without),
    )


def _recognised(result: Expressed) -> Reading | None:
    """A source's own rule as a counter, where on willfit's estimate it is exactly that counter."""
    try:
        found = estimate(result.scenario, search_limits=False)
        said = result.reading(found)
    except WillfitError:
        return None
    for amount in _AMOUNTS:
        for gpus in _OVER:
            reading = Reading(amount=amount, gpus=gpus)
            if reading(found) == said:
                return reading
    return None


def _is_of_the_whole(reading: Reading, scenario: Scenario) -> bool:
    """Whether the counter's reading is a peak, or the loaded model, and not a part of it."""
    usual = Reading()
    particular = {
        field.name
        for field in fields(reading)
        if getattr(reading, field.name) != getattr(usual, field.name)
    }
    if particular - _KNOWN or reading.moment not in (None, "loaded") or reading.plus_bytes < 0:
        return False
    if scenario.workload.training is None or reading.phases in ((), ("load",)):
        return True
    return bool(_LAST_OF_TRAINING & set(reading.phases))


def _loading(scenario: Scenario) -> Scenario:
    return replace(scenario, workload=Workload(loading=scenario.workload.loading))


def _of_one_copy(scenario: Scenario, reading: Reading) -> Scenario:
    """On one GPU, where that is the same question: layers spread and summed, or copies each whole.

    A sum over GPUs of a model that ``device_map`` spreads is the model's own total; a GPU of DDP
    holds what a single one would, but for the buckets.
    """
    machine = scenario.machine
    if machine is None or len(machine.gpus) < 2:
        return scenario
    strategy = scenario.workload.loading.strategy
    spread = scenario.workload.training is None and strategy in (None, "device_map")
    copies = strategy in _ONE_COPY or (strategy is None and scenario.workload.training is not None)
    if (spread and reading.gpus == "sum") or (copies and reading.gpus != "sum"):
        one = replace(machine, gpus=machine.gpus[:1], in_use_bytes=machine.in_use_bytes[:1])
        return replace(scenario, machine=one)
    return scenario
