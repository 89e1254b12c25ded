"""What the sides of a comparison took for real, beside their estimates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from willfit.comparing.fairness import letter
from willfit.comparing.measured import spread_bytes
from willfit.comparing.result import Compared
from willfit.live.beside import Line
from willfit.live.measurement import Measurement
from willfit.report.text import Style, table, wrapped
from willfit.units import format_bytes

_ON_HOST: Final = (
    "no GPU: the sum of all live tensors; the estimates beside it are without what only CUDA has, "
    "and a CPU's kernels take other temporaries"
)


def measured_lines(entries: Sequence[Compared], style: Style) -> list[str]:
    """A row for each side and counter; failures below; nothing where nothing was measured."""
    if not any(entry.repeats for entry in entries):
        return []
    rows = [row for i, entry in enumerate(entries) for row in _rows(letter(i), entry)]
    header = ("measured", "counter", "peak", "estimated", "error", "spread", "runs")
    lines = table(header, rows) if rows else []
    on_host = any(entry.repeats and not entry.repeats[0].on_gpu for entry in entries)
    lines += wrapped(_ON_HOST, first="  ", rest="  ") if on_host and rows else []
    for index, entry in enumerate(entries):
        for sentence in _failures(entry):
            text = wrapped(f"{letter(index)} {sentence}", first="  ", rest="    ")
            lines += [style.paint(line, "red") for line in text]
    return lines


def _rows(name: str, entry: Compared) -> Iterator[tuple[str, ...]]:
    for number, line in enumerate(entry.lines):
        expected = line.formula_bytes if line.trace_bytes is None else line.trace_bytes
        last = number == len(entry.lines) - 1
        yield (
            name if number == 0 else "",
            line.kind,
            format_bytes(line.measured_bytes),
            "–" if expected is None else format_bytes(expected),
            _error(line),
            _spread(entry) if last else "",
            _runs(entry) if last else "",
        )


def _error(line: Line) -> str:
    error = line.error("formula" if line.trace_bytes is None else "trace")
    return "–" if error is None else f"{error:+.1%}"


def _spread(entry: Compared) -> str:
    spread = spread_bytes(entry.repeats)
    return "" if spread is None else format_bytes(spread)


def _runs(entry: Compared) -> str:
    done = sum(not run.failure for run in entry.repeats)
    every = len(entry.repeats)
    return str(done) if done == every else f"{done} of {every}"


def _failures(entry: Compared) -> Iterator[str]:
    for sentence in dict.fromkeys(run.failure for run in entry.repeats if run.failure):
        times = sum(run.failure == sentence for run in entry.repeats)
        often = f" {times} times" if times > 1 else ""
        yield f"failed{often}: {sentence}"


def measurement_of(entry: Compared, run: Measurement | None) -> dict[str, Any] | None:
    """The contract's object of one run."""
    if run is None:
        return None
    from willfit.report.measurement import measurement_json

    if entry.estimate is None:
        return measurement_json(run)
    lines = entry.lines if run is entry.measurement else ()
    return measurement_json(run, entry.estimate.scenario, lines=lines)
