"""A run as a page of its own: each stage's rows, time and memory, estimated and measured."""

from __future__ import annotations

from collections.abc import Iterator

from willfit.report.html.markup import Html, listing, section, table
from willfit.report.html.page import figure, page, verdict
from willfit.report.run import time_text
from willfit.report.stages import Block, Lane, stages_drawing
from willfit.runner.release import GpuRelease
from willfit.runner.result import RunReport, StageReport
from willfit.units import format_bytes


def run_html(report: RunReport, *, command: str = "") -> str:
    """The whole report; ``command`` is what made it."""
    count = len(report.stages)
    title = f"A run of {count} {'stage' if count == 1 else 'stages'}"
    return page(
        title,
        _answer(report),
        section("Memory over the stages", _picture(report, title), _memory(report)),
        section("Rows", _rows(report), listing(_failures(report))),
        section("Time", _times(report), _work(report)),
        section("Computed again", listing(_said(report, "reasons"))),
        section("Notes", listing([*report.remarks, *_said(report, "remarks")])),
        data=report.json(),
        command=command,
    )


def _answer(report: RunReport) -> Html:
    there = "every row of every stage has a result" if report.complete else "rows are missing"
    output = f"; {report.output} has {report.output_rows:,} rows" if report.output else ""
    kind = "fits" if report.complete else "tight"
    return verdict(f"{there}{output}; {time_text(report.seconds)} in all", kind)


def _picture(report: RunReport, title: str) -> Html:
    lanes = list(lanes_of(report))
    return (
        figure(lambda width: stages_drawing(lanes, title, width=width, titled=False))
        if lanes
        else Html("")
    )


def lanes_of(report: RunReport) -> Iterator[Lane]:
    """A lane for each GPU; host memory where the run had none."""
    on_gpus = [(stage, *found) for stage in report.stages for found in _gpus(stage)]
    names = {gpu.index: gpu.name for _, gpu, _ in on_gpus}
    for index, name in sorted(names.items()):
        blocks = [_block(*found) for found in on_gpus if found[1].index == index]
        yield Lane(name=f"GPU {index} {name}", blocks=blocks)
    on_host = [
        Block(name=stage.name, peak_bytes=stage.host_bytes)
        for stage in report.stages
        if stage.num_computed and stage.host_bytes
    ]
    if not names and on_host:
        yield Lane(name="Host memory of a worker", blocks=on_host)


def _gpus(stage: StageReport) -> Iterator[tuple[GpuRelease, int | None]]:
    """Its GPUs, each with the estimate: of a replica, which are alike."""
    gpus = stage.release.gpus if stage.release is not None else ()
    each = stage.forecast.device_bytes
    for number, gpu in enumerate(gpus):
        yield gpu, each[number % len(each)] if each else None


def _block(stage: StageReport, gpu: GpuRelease, estimated: int | None) -> Block:
    return Block(
        name=stage.name,
        before_bytes=gpu.before_bytes,
        peak_bytes=gpu.peak_bytes,
        after_bytes=gpu.after_bytes,
        estimated_bytes=estimated,
    )


def _memory(report: RunReport) -> Html:
    rows = [
        (
            f"{stage.name}, GPU {gpu.index}",
            "n/a" if estimated is None else format_bytes(estimated),
            format_bytes(gpu.before_bytes),
            format_bytes(gpu.peak_bytes),
            format_bytes(gpu.after_bytes),
            "; ".join(gpu.holders),
        )
        for stage in report.stages
        for gpu, estimated in _gpus(stage)
    ]
    header = ("stage", "estimated", "before", "peak", "after", "still held by")
    caption = "In use on each GPU, as its driver counts; estimated: what the stage adds"
    tables = table(caption, header, rows, words=1)
    return Html(tables + _reserved(report))


def _reserved(report: RunReport) -> Html:
    rows = [
        (
            stage.name,
            " + ".join(map(format_bytes, stage.reserved_bytes)) or "n/a",
            format_bytes(stage.host_bytes),
        )
        for stage in report.stages
        if stage.num_computed
    ]
    header = ("stage", "reserved by torch", "host memory of a worker")
    return table("Of one replica at most", header, rows)


def _rows(report: RunReport) -> Html:
    rows = [
        (
            stage.name,
            *(f"{count:,}" for count in (
                stage.num_rows, stage.num_computed, stage.num_failed, stage.num_missing,
            )),
        )
        for stage in report.stages
    ]  # fmt: skip
    header = ("stage", "rows", "computed now", "failed", "not done in time")
    return table("Rows of each stage", header, rows)


def _failures(report: RunReport) -> Iterator[str]:
    for stage in report.stages:
        for row, why in stage.failures.items():
            yield f"{stage.name}, row {row}: {why}"


def _times(report: RunReport) -> Html:
    rows = [
        (
            stage.name,
            time_text(stage.seconds),
            time_text(stage.start_seconds),
            f"{stage.rows_per_second:,.1f}",
            f"{stage.tokens_per_second:,.0f}",
            f"{stage.padding_share:.1%}",
        )
        for stage in report.stages
        if stage.num_computed
    ]
    header = ("stage", "time", "until the first model", "rows/s", "tokens/s", "padding")
    return table("Time of each stage that computed something", header, rows)


def _work(report: RunReport) -> Html:
    rows = [
        (stage.name, str(stage.num_starts), str(stage.num_retries), str(stage.num_ooms))
        for stage in report.stages
        if stage.num_computed
    ]
    header = ("stage", "workers started", "shards tried again", "batches out of memory")
    return table("Workers", header, rows)


def _said(report: RunReport, what: str) -> list[str]:
    return [f"{stage.name}: {text}" for stage in report.stages for text in getattr(stage, what)]
