"""``measure``: a scenario run for real in a fresh process; its memory and time by phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from willfit.errors import InputError
from willfit.estimator.spread import strategy_of
from willfit.live.host_room import require_room
from willfit.live.measured.process import Worker
from willfit.live.measured.refuse import refuse
from willfit.live.measurement import Measurement, measurement_from
from willfit.scenario import Scenario

TIME_LIMIT: Final = 600.0
"""Seconds that a run may take."""


def measure(
    scenario: Scenario,
    *,
    device: str | None = None,
    time_limit: float = TIME_LIMIT,
    checkpoint: str | None = None,
) -> Measurement:
    """Run the scenario in a process of its own and read what it takes.

    ``device``: ``cuda`` or ``cpu``; None takes the GPU where there is one. ``checkpoint``: a folder
    with weights; without, they are random: memory and time do not depend on them. ``time_limit``:
    seconds. The installed libraries run, on the first GPUs of this machine, as many as the scenario
    has where its model is split over them. A run that fails says so in ``failure``. Raises
    `InputError` or `UnsupportedError` for what cannot be tried at all: a device that is not there,
    another library's model, or without a GPU a model that does not fit into this machine's memory.
    """
    refuse(scenario, checkpoint)
    with Worker(num_gpus=num_gpus(scenario), alloc_conf=scenario.stack.alloc_conf) as worker:
        found = worker.ask({"what": "look", "device": device}, time_limit)
        if found.get("kind") == "refused":
            raise InputError(str(found["error"]))
        if "error" in found:
            return failed(found)
        chosen = found["result"]["device"]
        if chosen == "cpu":
            require_room(scenario)
        job = {"scenario": scenario, "device": chosen, "checkpoint": checkpoint}
        return measured(worker.ask(job, time_limit))


def measured(answer: Mapping[str, Any]) -> Measurement:
    """The measurement that a worker answered with, or the one that says why there is none."""
    return failed(answer) if "error" in answer else measurement_from(answer["result"])


def failed(answer: Mapping[str, Any]) -> Measurement:
    """A measurement that never was."""
    return Measurement(device="", failure=str(answer["error"]), failure_kind=answer["kind"])


def num_gpus(scenario: Scenario) -> int:
    """GPUs of one process: all where the model is split over them, else one."""
    machine = scenario.machine
    if machine is None or strategy_of(scenario) != "device_map":
        return 1
    return len(machine.gpus)
