"""Situation: a scenario on the GPU that the message shows, with what else is on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from willfit.devices import all_gpus, parse_machine
from willfit.doctor.report import Report
from willfit.scenario import Machine, Scenario
from willfit.scenario.machine import Gpu
from willfit.units import GIB, format_exact

SAME_CARD: Final = 0.04
"""How far what drivers report of one card lies apart: a T4 has 14.56 to 14.75 GiB, 1.3 %, an L4
22.0 to 22.5; catalogue capacities that are the datasheet's are up to 3 % above what torch sees."""
MOST_GPUS: Final = 64


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A scenario as it was where the message comes from."""

    scenario: Scenario
    gpu: int
    """Index of the GPU that failed, within the scenario's machine."""
    notes: tuple[str, ...] = ()


def situated(scenario: Scenario, report: Report) -> Situation:
    """The scenario with the capacity that the message prints, on the GPU that it names.

    Without a machine it is the catalogue's only card of that size, or a card so described.
    """
    total = report.fields.get("total_bytes")
    index = min(int(report.fields.get("gpu", 0)), MOST_GPUS - 1)
    machine = scenario.machine
    if not isinstance(total, int) or total < GIB // 2:
        return Situation(scenario=scenario, gpu=_within(index, machine))
    if machine is None:
        gpu, note = card_of(total)
        scenario = replace(scenario, machine=Machine(gpus=(gpu,)))
        return Situation(scenario=scenario, gpu=0, notes=(note,))
    index = _within(index, machine)
    named = machine.gpus[index]
    if abs(named.capacity_bytes - total) > SAME_CARD * total:
        note = (
            f"the message comes from a GPU with {total / GIB:.2f} GiB, and {named.name} has "
            f"{named.capacity_bytes / GIB:.2f}: the {named.name} is what is planned for"
        )
        return Situation(scenario=scenario, gpu=index, notes=(note,))
    gpus = tuple(
        replace(gpu, capacity_bytes=total, capacity_is_nominal=False)
        if gpu.name == named.name
        else gpu
        for gpu in machine.gpus
    )
    return Situation(scenario=replace(scenario, machine=replace(machine, gpus=gpus)), gpu=index)


def _within(index: int, machine: Machine | None) -> int:
    """A job that CUDA_VISIBLE_DEVICES put on GPU 5 has one GPU of its own: the first."""
    return index if machine is not None and index < len(machine.gpus) else 0


def card_of(total_bytes: int) -> tuple[Gpu, str]:
    """The card that a total belongs to, and how that was found."""
    near = [
        gpu
        for gpu in all_gpus()
        if gpu.vendor == "nvidia"
        and abs(gpu.capacity_bytes - total_bytes) <= SAME_CARD * total_bytes
    ]
    if len({gpu.compute_capability for gpu in near}) == 1:
        card = replace(near[0], capacity_bytes=total_bytes, capacity_is_nominal=False)
        others = f", as {' or '.join(gpu.name for gpu in near[1:4])}" if near[1:] else ""
        return card, f"a GPU with {total_bytes / GIB:.2f} GiB is taken for {card.name}{others}"
    parsed = parse_machine(format_exact(total_bytes))
    note = "name the GPU (--gpu) for its kernels: compute capability sm_80 is assumed"
    return parsed.gpus[0], note


def with_in_use(situation: Situation, num_bytes: int) -> Scenario:
    """The scenario with so much more in use on the GPU that failed."""
    scenario = situation.scenario
    machine = scenario.machine
    assert machine is not None
    used = [machine.in_use(index) for index in range(len(machine.gpus))]
    used[situation.gpu] += num_bytes
    return replace(scenario, machine=replace(machine, in_use_bytes=tuple(used)))
