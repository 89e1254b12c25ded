"""Sides run for real: each in a fresh process, one after another, the GPU's memory back between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from willfit.live.beside import PEAK, Computed, Line, beside, estimated
from willfit.live.measurement import Measurement, Reading
from willfit.results import Level
from willfit.runner.gpus import GpuProbe, NvmlProbe
from willfit.runner.release import PATIENCE, Contract
from willfit.scenario import Scenario

REMEDY: Final = "end those processes and compare again"
Tell = Callable[[str], None]
Measuring = Callable[[Scenario], Measurement]


def in_turn(count: int, repeat: int) -> list[int]:
    """The order of runs: there and back, so that what grows with time hits every side alike."""
    return [i for n in range(repeat) for i in (range(count) if n % 2 == 0 else range(count)[::-1])]


def run_sides(
    scenarios: Sequence[Scenario | None],
    measuring: Measuring,
    *,
    repeat: int = 1,
    probe: GpuProbe | None = None,
    tell: Tell = lambda _: None,
) -> tuple[tuple[Measurement, ...], ...]:
    """Every measurement of every side; None is a side that cannot be run.

    A side that fails is a result. Raises `GpuNotReleasedError` where a process's memory does not
    come back: what came after would be measured on a fuller GPU.
    """
    probe = probe or NvmlProbe()
    found = probe.read()
    contract = Contract.now(probe, range(len(found)), remedy=REMEDY, patience=PATIENCE)
    runs: list[list[Measurement]] = [[] for _ in scenarios]
    for number, index in enumerate(in_turn(len(scenarios), repeat), 1):
        scenario = scenarios[index]
        if scenario is None:
            continue
        tell(f"measuring {number} of {len(scenarios) * repeat}: {scenario.model.id}")
        runs[index].append(measuring(scenario))
        contract.wait(range(len(found)), {})
    return tuple(map(tuple, runs))


def peaks_beside(run: Measurement, scenario: Scenario, level: Level) -> tuple[Line, ...]:
    """The most of each counter beside the estimate; without a GPU, what only CUDA has left out."""
    computed: Computed = "trace" if level == "trace" else "formula"
    lines = beside(run, [estimated(scenario, computed, on_gpu=run.on_gpu)])
    fullest = max((line.measured_bytes for line in lines if line.kind == "allocated"), default=0)
    gpus = {line.gpu_index for line in lines if line.measured_bytes == fullest}
    return tuple(line for line in lines if line.phase == PEAK and line.gpu_index in gpus)


def peak_reading(run: Measurement) -> Reading | None:
    """The reading with the most reserved; without a GPU, with the most in live tensors."""
    return max(
        run.readings, key=lambda one: (one.reserved_bytes, one.allocated_bytes), default=None
    )


def peak_bytes(run: Measurement) -> int | None:
    """One number of a run: reserved at the peak; without a GPU what live tensors took."""
    reading = peak_reading(run)
    return None if reading is None else reading.reserved_bytes or reading.allocated_bytes


def median_run(runs: Sequence[Measurement]) -> Measurement | None:
    """The run with the median peak, of those that did not fail; a failed one if all did."""
    done = [run for run in runs if not run.failure] or list(runs)
    ordered = sorted(done, key=lambda run: peak_bytes(run) or 0)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def spread_bytes(runs: Sequence[Measurement]) -> int | None:
    """The largest peak less the smallest; None with fewer than two that did not fail."""
    peaks = [peak_bytes(run) or 0 for run in runs if not run.failure]
    return max(peaks) - min(peaks) if len(peaks) > 1 else None
