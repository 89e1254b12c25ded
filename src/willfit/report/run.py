"""A run as text: what each stage did, in what memory, and what came back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from willfit.report.text import wrapped as _wrapped
from willfit.units import format_bytes

if TYPE_CHECKING:
    from willfit.runner.result import RunReport, StageReport
    from willfit.runner.stages import Ready
    from willfit.runner.status import StageStatus, Status


def wrapped(text: str, *, indent: str = "") -> list[str]:
    """A sentence in 80 columns, its later lines two columns further in."""
    return _wrapped(text, first=indent, rest=indent + "  ")


def render_run(report: RunReport) -> str:
    """The report at the end of a run."""
    lines = [line for stage in report.stages for line in stage_lines(stage)]
    lines.append("")
    if report.output is not None:
        lines.append(f"{report.output}: {report.output_rows:,} rows")
    lines += wrapped(f"results: {report.folder}")
    lines += [line for remark in report.remarks for line in wrapped(f"note: {remark}")]
    lines.append(f"{time_text(report.seconds)} in all")
    return "\n".join(lines) + "\n"


def stage_lines(stage: StageReport) -> Iterator[str]:
    """A stage in a few lines."""
    there = stage.num_rows - stage.num_computed - stage.num_missing - stage.num_failed
    parts = [f"{stage.num_rows:,} rows"]
    if there:
        parts.append(f"{there:,} kept from before" if stage.num_computed else "all kept")
    if stage.num_failed:
        parts.append(f"{stage.num_failed:,} failed")
    if stage.num_missing:
        parts.append(f"{stage.num_missing:,} not done in time")
    yield f"{stage.name}: {', '.join(parts)}"
    for reason in stage.reasons:
        yield from wrapped(f"computed again: {reason}", indent="  ")
    if stage.num_computed:
        yield from _speed(stage)
        yield from _memory(stage)
    for row, why in list(stage.failures.items())[:5]:
        yield from wrapped(f"row {row}: {why}", indent="  ")
    for remark in stage.remarks:
        yield from wrapped(f"note: {remark}", indent="  ")


def render_ready(stages: Sequence[Ready]) -> str:
    """What a run would compute, and in what memory."""
    return "".join(line + "\n" for ready in stages for line in _ready_lines(ready))


def ready_json(stages: Sequence[Ready]) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "schema": "willfit.dry-run/1",
        "stages": [
            {
                "name": ready.name,
                "rows": ready.rows.num_rows,
                "missing": ready.num_missing,
                "shards": len(ready.shards()),
                "reasons": list(ready.reasons),
                "replicas": [list(group) for group in ready.placed],
                "longest_tokens": ready.sizes().longest,
                "batch_tokens": ready.foreseen.batch_tokens,
                "device_bytes": list(ready.foreseen.device_bytes),
                "remarks": list(ready.foreseen.remarks),
            }
            for ready in stages
        ],
    }


def _ready_lines(ready: Ready) -> Iterator[str]:
    rows, missing = ready.rows.num_rows, ready.num_missing
    yield f"{ready.name}: {missing:,} of {rows:,} rows to compute in {len(ready.shards())} shards"
    for reason in ready.reasons:
        yield from wrapped(f"computed again: {reason}", indent="  ")
    if not missing:
        return
    if ready.gpus:
        groups = ", ".join(" + ".join(map(str, group)) for group in ready.placed)
        replicas = "1 replica" if len(ready.placed) == 1 else f"{len(ready.placed)} replicas"
        yield f"  {replicas}, on GPU {groups}"
    else:
        yield "  on the CPU"
    if ready.foreseen.device_bytes:
        yield (
            f"  estimated {_amounts(ready.foreseen.device_bytes)} a GPU, in batches of "
            f"{ready.foreseen.batch_tokens:,} tokens (the longest row has "
            f"{ready.sizes().longest:,})"
        )
    for remark in ready.foreseen.remarks:
        yield from wrapped(f"note: {remark}", indent="  ")


def stage_line(stage: StageReport) -> str:
    """A stage in one line, for while the run goes on."""
    parts = [f"{stage.name} is done: {next(stage_lines(stage)).partition(': ')[2]}"]
    if stage.num_computed:
        parts.append(_rate(stage))
    if stage.release is not None and stage.release.gpus:
        parts.append(stage.release.line())
    return ", ".join(parts)


def _speed(stage: StageReport) -> Iterator[str]:
    rate = f", {_rate(stage)}"
    yield (
        f"  time: {time_text(stage.seconds)}, of which {time_text(stage.start_seconds)} until the "
        f"first model was there{rate}"
    )
    if stage.padded_tokens and stage.in_order_padded_tokens:
        in_order = 1 - stage.tokens / stage.in_order_padded_tokens
        yield f"  padding: {stage.padding_share:.1%} of the tokens ({in_order:.0%} in data order)"
    if stage.num_retries or stage.num_ooms:
        yield (
            f"  shards tried again: {stage.num_retries}, batches that ran out of memory: "
            f"{stage.num_ooms}, workers started: {stage.num_starts}"
        )


def _rate(stage: StageReport) -> str:
    """Tokens where rows have any, else rows."""
    if stage.tokens > stage.num_computed:
        return f"{stage.tokens_per_second:,.0f} tokens/s"
    return f"{stage.rows_per_second:,.0f} rows/s"


def _memory(stage: StageReport) -> Iterator[str]:
    """Estimate beside what was measured, and the release."""
    estimated = stage.forecast.device_bytes
    if estimated or stage.reserved_bytes:
        yield (
            f"  memory: estimated {_amounts(estimated)} a GPU, measured "
            f"{_peaks(stage)}, of it {_amounts(stage.reserved_bytes)} reserved by torch"
        )
    else:
        yield f"  memory: {format_bytes(stage.host_bytes)} of host memory a worker at most"
    if stage.release is not None and stage.release.gpus:
        yield from wrapped(stage.release.line(), indent="  ")
        for gpu in stage.release.gpus:
            for holder in gpu.holders:
                yield from wrapped(f"GPU {gpu.index} is still held by {holder}", indent="  ")


def _peaks(stage: StageReport) -> str:
    if stage.release is None:
        return "nothing"
    own = tuple(gpu.peak_bytes - gpu.before_bytes for gpu in stage.release.gpus)
    return _amounts(own)


def _amounts(amounts: Sequence[int]) -> str:
    return " + ".join(format_bytes(amount) for amount in amounts) or "nothing"


def time_text(seconds: float) -> str:
    """``12.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def render_status(found: Status) -> str:
    """How far a run is."""
    lines = [f"{found.folder}: {_state(found)}"]
    for stage in found.stages:
        lines += _status_lines(stage)
    now = found.progress.get("stage")
    if found.pid is not None and now:
        lines.append(f"now: {now['name']}, {now['phase']}, {now['done']:,} of {now['rows']:,} rows")
        if now.get("eta_seconds") is not None:
            lines.append(f"  about {time_text(now['eta_seconds'])} to go in this stage")
        lines += [f"  {replica}" for replica in now.get("replicas", ())]
    for note in found.progress.get("notes", [])[-5:]:
        lines += wrapped(f"note: {note}")
    if found.output:
        lines.append(f"output: {found.output}")
    return "\n".join(lines) + "\n"


def _state(found: Status) -> str:
    if found.pid is not None:
        return f"running (process {found.pid})"
    if found.progress.get("done"):
        return "done" if found.complete else "done, with rows missing"
    return "stopped; willfit run goes on from here"


def _status_lines(stage: StageStatus) -> Iterator[str]:
    rows = f"{stage.done:,} of {stage.rows:,} rows" if stage.rows is not None else (
        f"{stage.done:,} rows" if stage.done else "not begun"
    )  # fmt: skip
    yield f"  {stage.name}: {rows}"
    for reason in stage.reasons:
        yield from wrapped(f"would be computed again: {reason}", indent="    ")
