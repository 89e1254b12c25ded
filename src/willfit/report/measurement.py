"""A measurement as text and JSON: by phase, beside formula and trace, with the errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from willfit.live.beside import Computed, Estimated, Line
from willfit.live.measurement import Measurement, Reading
from willfit.report.contract import estimate_json, settings_json
from willfit.report.text import Style, table, titled, wrapped
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.units import format_bytes

SCHEMA: Final = "willfit.measurement/1"
LEVELS: Final[tuple[Computed, ...]] = ("formula", "trace")
_HOST_NOTE: Final = (
    "no GPU: allocated is the bytes of all live tensors of the process, as asked for, counted "
    "after every operator; the estimates beside it are without what only CUDA has (workspaces, "
    "rounding to 512 bytes, context, the loader's warm-up block) and loading is what it leaves"
)
_HOST_DIFFERENCES: Final = (
    "what remains: a CPU takes other kernels, whose inner buffers nobody sees from outside; "
    "the formula rounds activations up to 512 bytes; optimizers without 'fused' in their name "
    "take one parameter after the other, where CUDA takes them all at once"
)
_WORDS: Final[Mapping[str, str]] = {
    "out_of_memory": "ran out of memory",
    "refused": "was refused",
    "died": "ended",
    "not_done": "was ended",
}


def measurement_json(
    measurement: Measurement,
    scenario: Scenario | None = None,
    levels: Sequence[Estimated] = (),
    lines: Sequence[Line] = (),
) -> dict[str, Any]:
    """The contract's object: every byte count an integer, every key stable, additions only."""
    return {
        "schema": SCHEMA,
        "level": "measured",
        "scenario": None if scenario is None else settings_json(scenario),
        **measurement.as_dict(),
        "context_bytes": {reading.phase: reading.context_bytes for reading in measurement.readings},
        "lines": [_line_json(line) for line in lines],
        "estimates": {
            level.level: None if level.estimate is None else estimate_json(level.estimate)
            for level in levels
        },
        "no_estimate": {level.level: level.reason for level in levels if level.reason},
    }


def _line_json(line: Line) -> dict[str, Any]:
    return {
        "gpu_index": line.gpu_index,
        "phase": line.phase,
        "kind": line.kind,
        "measured_bytes": line.measured_bytes,
        "formula_bytes": line.formula_bytes,
        "formula_error": line.error("formula"),
        "trace_bytes": line.trace_bytes,
        "trace_error": line.error("trace"),
    }


def render(
    measurement: Measurement,
    scenario: Scenario,
    levels: Sequence[Estimated],
    lines: Sequence[Line],
    style: Style | None = None,
) -> str:
    """The whole report: what ran on what, tables by phase, time, and what failed."""
    style = style or Style()
    text = [*_heading(measurement, scenario, style), ""]
    for gpu in dict.fromkeys(line.gpu_index for line in lines):
        text += [*_gpu(measurement, gpu, levels, lines), ""]
    if measurement.seconds:
        text += [*_seconds(measurement), ""]
    if measurement.failure:
        text += [*_failure(measurement, levels, style), ""]
    text += titled(_remarks(measurement, levels))
    return "\n".join(text).rstrip() + "\n"


def _heading(measurement: Measurement, scenario: Scenario, style: Style) -> list[str]:
    lines = [f"{style.paint(scenario.model.id, 'bold')}  measured: {_doing(scenario)}"]
    where = measurement.device or "no device"
    if measurement.capacity_bytes is not None:
        where += f", {format_bytes(measurement.capacity_bytes)}"
    where += f", driver {measurement.driver}" if measurement.driver else ""
    versions = ", ".join(f"{name} {text}" for name, text in measurement.versions.items())
    return [
        *lines,
        *wrapped(f"on {where}", first="  ", rest="    "),
        *wrapped(versions, first="  ", rest="    "),
    ]


def _doing(scenario: Scenario) -> str:
    work = scenario.workload
    if work.training is not None:
        return f"training, {work.training.method}, trainer {work.training.trainer}"
    return "inference" if work.inference is not None else "loading"


def _gpu(
    measurement: Measurement, gpu: int, levels: Sequence[Estimated], lines: Sequence[Line]
) -> list[str]:
    here = [line for line in lines if line.gpu_index == gpu]
    text = [f"GPU {gpu} {one.name}" for one in measurement.gpus if one.index == gpu]
    shown = [level.level for level in levels]
    for kind in dict.fromkeys(line.kind for line in here):
        header = (kind, "measured", *(cell for level in shown for cell in (level, "")))
        rows = [_row(line, shown) for line in here if line.kind == kind]
        text += [*table(header, rows), ""]
    return [*text, *_beside(measurement, gpu)]


def _row(line: Line, shown: Sequence[Computed]) -> tuple[str, ...]:
    cells = [line.phase, format_bytes(line.measured_bytes)]
    for level in shown:
        amount = line.formula_bytes if level == "formula" else line.trace_bytes
        cells.append("" if amount is None else format_bytes(amount))
        cells.append(_percent(line.error(level)))
    return tuple(cells)


def _percent(error: float | None) -> str:
    return "" if error is None else f"{100 * error:+.1f} %"


def _beside(measurement: Measurement, gpu: int) -> list[str]:
    """What is read and not estimated: the context and the host."""
    found = [one for one in measurement.readings if one.gpu_index == gpu]
    if not found:
        return []
    lines = _context(found) if measurement.on_gpu else []
    most = max(found, key=lambda one: one.host_bytes)
    said = f"host memory of the process (resident): {format_bytes(most.host_bytes)} at most"
    return [*lines, *wrapped(f"{said}, after {most.phase}", first="  ", rest="    ")]


def _context(found: Sequence[Reading]) -> list[str]:
    contexts = [(one.phase, one.context_bytes) for one in found if one.context_bytes is not None]
    if contexts:
        (first, least), (last, most) = contexts[0], contexts[-1]
        said = f"{format_bytes(least or 0)} after {first}, {format_bytes(most or 0)} after {last}"
        text = f"context (NVML's process − reserved): {said}"
    elif any(one.device_bytes is not None for one in found):
        text = "context: NVML does not tell this process's share; device is all in use − before"
    else:
        text = "context: no NVML here, so nothing but torch's counters"
    return wrapped(text, first="  ", rest="    ")


def _seconds(measurement: Measurement) -> list[str]:
    parts = [
        f"{name.replace('_', ' ')} {value:,.0f}"
        if "tokens" in name
        else f"{name.replace('_', ' ')} {value:.3g} s"
        for name, value in measurement.seconds.items()
    ]
    return wrapped("time: " + ", ".join(parts), first="  ", rest="    ")


def _failure(measurement: Measurement, levels: Sequence[Estimated], style: Style) -> Iterator[str]:
    words = _WORDS.get(measurement.failure_kind, "failed")
    reached = [one.phase for one in measurement.readings if one.phase != "failed"]
    after = f" after {reached[-1]}" if reached else ""
    yield style.paint(f"the run {words}{after}", "red")
    yield from wrapped(measurement.failure, first="  ", rest="  ")
    if measurement.failure_kind != "out_of_memory":
        return
    for level in levels:
        if level.estimate is not None:
            yield from wrapped(_said(level.estimate, level.level), first="  ", rest="    ")


def _said(found: Estimate, level: str) -> str:
    """What the estimate said of the same."""
    binding = found.binding
    text = f"{level} said {format_bytes(binding.peak.device_bytes)} in {binding.peak.name}"
    if binding.budget_bytes is None or found.verdict is None:
        return text
    verdict = found.verdict.replace("_", " ")
    return f"{text} of {format_bytes(binding.budget_bytes)}: {verdict}"


def _remarks(
    measurement: Measurement, levels: Sequence[Estimated]
) -> Iterator[tuple[str, Sequence[str]]]:
    yield "note", measurement.notes
    if measurement.counted == "tensors" and measurement.readings:
        yield "note", (_HOST_NOTE, _HOST_DIFFERENCES)
    for level in levels:
        if level.reason:
            yield f"no {level.level}", (level.reason,)
