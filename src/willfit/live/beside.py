"""A measurement beside estimates of the same scenario: amounts that mean the same, with errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from willfit.errors import WillfitError
from willfit.estimator import estimate
from willfit.live.measurement import Measurement, Reading, phases_of
from willfit.live.tensors import traced_tensors, without_cuda
from willfit.results import Estimate, PhaseEstimate
from willfit.scenario import Scenario
from willfit.trace.recording import Recording

Kind = Literal["allocated", "reserved", "device"]
KINDS: Final[tuple[Kind, ...]] = ("allocated", "reserved", "device")
Computed = Literal["formula", "trace"]
Key = tuple[int, str, Kind]
"""GPU, phase, what was counted."""
PART_OF: Final[Mapping[str, str]] = {"clip": "backward"}
"""Phases of an estimate that a reading does not tell apart from another."""
PEAK: Final = "peak"
"""The most of all phases."""


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """What one level says of the scenario that was run."""

    level: Computed
    estimate: Estimate | None
    reason: str = ""
    """Why there is no estimate; "" where there is one."""
    amounts: Mapping[Key, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measured amount beside what was estimated."""

    gpu_index: int
    phase: str
    """``peak`` is the most of all phases."""
    kind: Kind
    measured_bytes: int
    formula_bytes: int | None
    trace_bytes: int | None

    def error(self, level: Computed) -> float | None:
        """(estimated − measured) / measured; None without an estimate."""
        found = self.formula_bytes if level == "formula" else self.trace_bytes
        return None if found is None or not self.measured_bytes else found / self.measured_bytes - 1


def estimated(scenario: Scenario, level: Computed, *, on_gpu: bool = True) -> Estimated:
    """The estimate at a level; ``on_gpu=False`` leaves out what only CUDA has.

    A scenario that has none, or a library that is missing, is a reason.
    """
    recordings: list[Recording] = []
    try:
        found = estimate(
            scenario,
            search_limits=False,
            trace=level == "trace",
            listener=recordings.append if level == "trace" else None,
        )
    except WillfitError as error:
        return Estimated(level=level, estimate=None, reason=str(error))
    if on_gpu:
        amounts = amounts_of(found)
    else:
        phases = traced_tensors(recordings[0]) if recordings else without_cuda(scenario, found)
        amounts = by_key(phases)
    return Estimated(level=level, estimate=found, amounts=amounts)


def beside(measurement: Measurement, levels: Sequence[Estimated]) -> tuple[Line, ...]:
    """Every amount that was measured, phase by phase, and at the peak of a run that was done."""
    return tuple(_lines(measurement, {level.level: level.amounts for level in levels}))


def _lines(
    measurement: Measurement, levels: Mapping[Computed, Mapping[Key, int]]
) -> Iterator[Line]:
    for gpu in dict.fromkeys(reading.gpu_index for reading in measurement.readings):
        for kind in KINDS:
            measured = {
                phase: amount
                for phase in _phases(measurement, gpu)
                if (amount := _measured(measurement, gpu, phase, kind))
            }
            if not measured:
                continue
            for phase, amount in measured.items():
                yield _line(gpu, phase, kind, amount, levels, tuple(measured))
            if not measurement.failure:
                most = max(measured.values())
                yield _line(gpu, PEAK, kind, most, levels, tuple(measured))


def _line(
    gpu: int,
    phase: str,
    kind: Kind,
    amount: int,
    levels: Mapping[Computed, Mapping[Key, int]],
    phases: tuple[str, ...],
) -> Line:
    def found(level: Computed) -> int | None:
        return expected(levels.get(level, {}), level, (gpu, phase, kind), phases)

    return Line(
        gpu_index=gpu,
        phase=phase,
        kind=kind,
        measured_bytes=amount,
        formula_bytes=found("formula"),
        trace_bytes=found("trace"),
    )


def expected(
    amounts: Mapping[Key, int], level: Computed, key: Key, phases: Sequence[str]
) -> int | None:
    """What an estimate says of a measured amount; ``phases``: all that were measured with it.

    Its peak is that of the phases that were measured. A trace has adapters in loading, a formula
    has not; an inference of one pass is a forward pass or a prefill.
    """
    gpu, phase, kind = key
    if phase == PEAK:
        every = [expected(amounts, level, (gpu, one, kind), phases) or 0 for one in phases]
        return max(every, default=0) or None
    if level == "trace" and "adapters" in phases and phase in ("load", "adapters"):
        return amounts.get((gpu, "load", kind)) if phase == "adapters" else None
    if phase == "forward" and key not in amounts:
        return amounts.get((gpu, "prefill", kind))
    return amounts.get(key)


def _phases(measurement: Measurement, gpu: int) -> tuple[str, ...]:
    """Phases worth a line: adapters where there are some, the failed one where nothing else is."""
    names = phases_of(measurement.readings, gpu)
    held = {one.phase: one.held_bytes for one in measurement.readings if one.gpu_index == gpu}
    none = held.get("adapters") == held.get("load")
    return tuple(name for name in names if not (name == "adapters" and none))


def _measured(measurement: Measurement, gpu: int, phase: str, kind: Kind) -> int:
    joined = ("load", "adapters") if phase == "adapters" else (phase,)
    found = [one for one in measurement.readings if one.gpu_index == gpu and one.phase in joined]
    idle = next((one.idle_bytes for one in measurement.gpus if one.index == gpu), None)
    return max((_amount(one, kind, measurement, idle) for one in found), default=0)


def _amount(reading: Reading, kind: Kind, measurement: Measurement, idle: int | None) -> int:
    if kind == "allocated":
        loading = reading.phase in ("load", "adapters")
        if loading and measurement.counted == "tensors":
            return reading.held_bytes  # the host's own copies are no part of a GPU's loading
        return reading.allocated_bytes - measurement.baseline_bytes
    if kind == "reserved":
        return reading.reserved_bytes
    if reading.process_bytes is not None:
        return reading.process_bytes
    if reading.device_bytes is not None and idle is not None:
        return reading.device_bytes - idle
    return 0


def amounts_of(found: Estimate) -> dict[Key, int]:
    """The most of each phase on each GPU, by the phases that a reading has."""
    most: dict[Key, int] = {}
    for gpu in found.gpus:
        for phase in gpu.phases:
            name = PART_OF.get(phase.name, phase.name)
            for kind in KINDS:
                key: Key = (gpu.index, name, kind)
                most[key] = max(most.get(key, 0), _of_kind(phase, kind))
    return most


def _of_kind(phase: PhaseEstimate, kind: Kind) -> int:
    amounts: dict[Kind, int] = {
        "allocated": phase.allocated_bytes,
        "reserved": phase.reserved_bytes,
        "device": phase.device_bytes,
    }
    return amounts[kind]


def by_key(phases: Mapping[str, int]) -> dict[Key, int]:
    """Allocated bytes by phase of the only device, by the phases that a reading has."""
    most: dict[Key, int] = {}
    for name, amount in phases.items():
        key: Key = (0, PART_OF.get(name, name), "allocated")
        most[key] = max(most.get(key, 0), amount)
    return most
