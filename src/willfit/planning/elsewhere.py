"""Where else a scenario fits: the smallest GPU, and the smallest number of the same GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.changes.edit import with_loading
from willfit.devices import all_gpus
from willfit.formulas.weights import load_weights
from willfit.planning.judge import Judge
from willfit.scenario import Machine, Scenario
from willfit.scenario.machine import Gpu
from willfit.scenario.workload import Strategy
from willfit.units import format_bytes

COUNTS: Final = (2, 4, 8)
"""GPUs of one machine that are tried."""


def smallest_gpu(scenario: Scenario, judge: Judge) -> Gpu | None:
    """The NVIDIA card of the catalogue with the least memory on which it fits; None if none."""
    least = _weight_bytes(scenario)
    cards = (gpu for gpu in all_gpus() if gpu.vendor == "nvidia" and gpu.sm >= 75)
    for gpu in sorted(cards, key=lambda gpu: (gpu.usable_bytes, gpu.name)):
        if gpu.usable_bytes < least:
            continue
        if _fits(on_gpus(scenario, gpu, 1), judge):
            return gpu
    return None


def smallest_number(scenario: Scenario, judge: Judge) -> int | None:
    """How many of the scenario's first GPU it takes, shared out; None if eight do not suffice."""
    machine = scenario.machine
    if machine is None:
        return None
    least = _weight_bytes(scenario)
    for count in COUNTS:
        if count > len(machine.gpus) and count * machine.gpus[0].usable_bytes >= least:
            for shared in _shared(on_gpus(scenario, machine.gpus[0], count)):
                if _fits(shared, judge):
                    return count
    return None


def _weight_bytes(scenario: Scenario) -> int:
    """What the loaded weights take: no card with less need be looked at."""
    return load_weights(scenario.model, scenario.workload.loading, scenario.stack).allocated_bytes


def on_gpus(scenario: Scenario, gpu: Gpu, count: int) -> Scenario:
    """The scenario on other GPUs, nothing else on them, the host unchanged."""
    machine = scenario.machine or Machine(gpus=(gpu,))
    return replace(
        scenario, machine=replace(machine, gpus=(gpu,) * count, in_use_bytes=(), reserve_bytes=0)
    )


def _shared(scenario: Scenario) -> Iterator[Scenario]:
    """As given, and with the strategies that share out what one GPU cannot hold."""
    yield scenario
    training = scenario.workload.training
    strategies: tuple[Strategy, ...] = ("device_map",) if training is None else ("fsdp",)
    for strategy in strategies:
        yield with_loading(scenario, strategy=strategy, max_memory=None)


def _fits(scenario: Scenario, judge: Judge) -> bool:
    judged = judge(scenario)
    return judged is not None and judged.verdict == "fits"


def where_else(scenario: Scenario, judge: Judge) -> str:
    """In words: the smallest single card, and how many of the GPU at hand."""
    card, number = smallest_gpu(scenario, judge), smallest_number(scenario, judge)
    parts = []
    if card is not None:
        parts.append(f"on one {card.name} ({format_bytes(card.usable_bytes)})")
    if number is not None and scenario.machine is not None:
        parts.append(f"on {number} × {scenario.machine.gpus[0].name}")
    return " or ".join(parts)
