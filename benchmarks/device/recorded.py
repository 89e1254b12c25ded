"""Recorded measurements: one line a scenario, kept with the tests and compared for ever."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.device.cases import Case, scenario_of
from willfit.errors import WillfitError
from willfit.estimator import estimate
from willfit.results import Estimate
from willfit.scenario import Scenario

FOLDER: Final = Path(__file__).resolve().parents[2] / "tests" / "data" / "measured"
COMMAND: Final = "willfit measure --suite recorded"
PART_OF: Final[Mapping[str, str]] = {"clip": "backward", "forward": "forward"}
"""Phases of an estimate that a reading does not tell apart from another."""
JOINED: Final[Mapping[str, tuple[str, ...]]] = {"load": ("load", "adapters")}
"""Readings that a trace has as one phase."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one real run took."""

    name: str
    arguments: str
    """Arguments of ``willfit estimate`` that describe it."""
    extra: Mapping[str, Any]
    layers: int | None
    gpu: str
    """The catalogue's card."""
    device: str
    driver: str
    versions: Mapping[str, str]
    phases: Mapping[str, Mapping[str, int | None]]
    """Allocated, reserved and process bytes by phase, the most of all steps."""
    seconds: Mapping[str, float]
    """By what was timed: ``prefill``, ``decode_token``, ``optimizer_step``, ``forward``…"""
    failure: str
    command: str = ""
    """What was run."""
    baseline_bytes: int = 0
    """What an earlier case had left allocated, already taken off: reserved memory started mixed."""
    series: Sequence[Sequence[int]] = ()
    """(decoded tokens, allocated, reserved) while decoding."""

    @property
    def stack(self) -> str:
        """The libraries' releases, as ``--stack`` takes them."""
        return _stack(self.versions)

    @property
    def scenario(self) -> Scenario:
        """The scenario, with the libraries that it ran on."""
        return self._with(self.stack)

    @property
    def traced_scenario(self) -> Scenario:
        """The scenario on the torch that is installed, which is the only one a trace can run."""
        ran = {**self.versions, "torch": importlib.metadata.version("torch")}
        return self._with(_stack(ran))

    def _with(self, stack: str) -> Scenario:
        case = Case(
            name=self.name,
            arguments=self.arguments,
            extra=self.extra,
            layers=self.layers,
        )
        return scenario_of(case, self.gpu, stack)

    def most(self, kind: str) -> int:
        """The most of any phase: ``allocated``, ``reserved`` or ``process``."""
        return max((phase[kind] or 0 for phase in self.phases.values()), default=0)


def _stack(versions: Mapping[str, str]) -> str:
    return ",".join(f"{name}={text.split('+')[0]}" for name, text in versions.items())


def recorded_from(row: Mapping[str, Any]) -> Recorded:
    """A row of the runner, or a line of the record."""
    if "phases" in row:
        return Recorded(**row)
    found = row.get("measurement") or {}
    phases: dict[str, dict[str, int | None]] = {}
    for reading in found.get("readings", ()):
        held = phases.setdefault(reading["phase"], {})
        for kind in ("allocated", "reserved", "process"):
            amount = (reading[f"{kind}_bytes"] or 0) - found["baseline_bytes"]
            held[kind] = max(held.get(kind) or 0, amount)
    return Recorded(
        name=row["name"],
        arguments=row["arguments"],
        extra=row["extra"],
        layers=row["layers"],
        gpu=row["gpu"],
        device=found.get("device", ""),
        driver=found.get("driver", ""),
        versions=found.get("versions", {}),
        phases=phases,
        seconds=found.get("seconds", {}),
        failure=found.get("failure") or row.get("failure") or "",
        command=row.get("command", COMMAND),
        baseline_bytes=found.get("baseline_bytes", 0),
        series=found.get("series", ()),
    )


def read_records(path: Path) -> Iterator[Recorded]:
    """Every line."""
    for line in path.read_text("utf-8").splitlines():
        yield recorded_from(json.loads(line))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A measurement beside an estimate of one level."""

    record: Recorded
    level: str
    result: Estimate | None
    reason: str = ""
    """Why there is no estimate."""

    def estimated(self, kind: str) -> int:
        """The most of any phase that was measured."""
        assert self.result is not None
        return max(self._phase(kind, name) for name in self.record.phases)

    def error(self, kind: str) -> float | None:
        """(estimated − measured) / measured of the peak; None without one."""
        measured = self.record.most(kind)
        if self.result is None or not measured:
            return None
        return self.estimated(kind) / measured - 1

    def phase_error(self, kind: str, name: str) -> float | None:
        """The same of one phase."""
        if self.result is None:
            return None
        names = JOINED.get(name, (name,)) if self.level == "trace" else (name,)
        phases = self.record.phases
        measured = max((phases[each][kind] or 0 for each in names if each in phases), default=0)
        found = self._phase(kind, name)
        return found / measured - 1 if found and measured else None

    def in_range(self) -> bool | None:
        """Whether the process was between the estimate's low and high ends."""
        if self.result is None:
            return None
        gpu = self.result.gpus[0]
        return gpu.low_device_bytes <= self.record.most("process") <= gpu.high_device_bytes

    def _phase(self, kind: str, name: str) -> int:
        assert self.result is not None
        field = "device_bytes" if kind == "process" else f"{kind}_bytes"
        amounts: Sequence[int] = [
            getattr(phase, field)
            for phase in self.result.gpus[0].phases
            if PART_OF.get(phase.name, phase.name) == name
        ]
        return max(amounts, default=0)


def compare(record: Recorded, *, trace: bool) -> Compared:
    """The record beside its estimate."""
    level = "trace" if trace else "formula"
    try:
        scenario = record.traced_scenario if trace else record.scenario
        result = estimate(scenario, search_limits=False, trace=trace)
    except WillfitError as error:
        return Compared(record=record, level=level, result=None, reason=str(error))
    return Compared(record=record, level=level, result=result)
