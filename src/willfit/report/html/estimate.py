"""An estimate as a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.report.contract import estimate_json
from willfit.report.html.markup import Html, element, section, table
from willfit.report.html.page import figure, page, verdict
from willfit.report.html.parts import breakdowns, machine_name, phases, remarks, said_of, settings
from willfit.report.peak import peak_drawing, sides_of
from willfit.report.phrases import OUTSIDE, dtype_rows, failure_place, limits_text, op_text
from willfit.report.timeline import Timelines, cards_of, timeline_drawing
from willfit.results import Alive, Estimate, Failure
from willfit.units import format_bytes


def estimate_html(
    estimate: Estimate, timelines: Timelines | None = None, *, command: str = ""
) -> str:
    """The whole report; ``timelines`` are the traced run's, ``command`` what made it."""
    model = estimate.scenario.model
    title = f"{model.id} on {machine_name(estimate)}"
    return page(
        title,
        answer(estimate),
        _facts(estimate),
        *_memory(estimate, title),
        _over_time(estimate, timelines, title),
        section("Largest at the peak", _alive(estimate)),
        section("In other dtypes", _dtypes(estimate)),
        remarks(estimate),
        settings(estimate),
        data=estimate_json(estimate),
        command=command,
    )


def _memory(estimate: Estimate, title: str) -> Iterator[Html]:
    """The peak, drawn and by component, and the phases; nothing of what would be refused."""
    if estimate.refused is None:
        drawn = figure(
            lambda width: peak_drawing(sides_of(estimate), title, width=width, titled=False)
        )
        yield section("What fills the GPU at the peak", drawn, breakdowns(estimate))
        yield section("Over the phases", phases(estimate.binding))


def answer(estimate: Estimate) -> Html:
    """The verdict first, then what stands against it and how far it reaches."""
    lines = [verdict(said_of(estimate), estimate.verdict)]
    if estimate.unsupported:
        lines.append(element("p", "No trustworthy number: see what is not supported, below."))
    if estimate.failure is not None:
        lines.append(_failure(estimate.failure))
    return Html("".join(lines) + _limits(estimate))


def _limits(estimate: Estimate) -> Html:
    largest = limits_text(estimate.limits)
    if not largest:
        return Html("")
    return element("p", f"Largest that fits, the rest unchanged: {largest}.")


def _failure(failure: Failure) -> Html:
    where, op = failure_place(failure), op_text(failure.op)
    said = f"Would end in {failure.phase} on GPU {failure.gpu_index}, {where} ({op}): "
    return element("p", said + failure.message.partition(" If reserved but unallocated")[0])


def _facts(estimate: Estimate) -> Html:
    model, host = estimate.scenario.model, estimate.host
    rows = [
        ("model", f"{model.id} ({model.model_class})"),
        ("parameters", f"{estimate.num_params:,}, trained {estimate.num_trainable_params:,}"),
        ("stored as", model.stored_dtype.name),
        ("evidence", _LEVELS[estimate.level]),
        ("host RAM", f"{format_bytes(host.ram_bytes)}, beyond the interpreter itself"),
        ("disk", format_bytes(host.disk_bytes)),
    ]
    if estimate.off_gpu_bytes:
        rows.append(("weights off the GPU", format_bytes(estimate.off_gpu_bytes)))
    if estimate.kv_cache_bytes is not None:
        rows.append(("KV cache, full", format_bytes(estimate.kv_cache_bytes)))
    return table("What was asked", ("fact", "value"), rows, words=1)


_LEVELS: Final = {
    "formula": "computed by formula; nothing was run",
    "trace": "traced: the real code on tensors without values, its allocations replayed",
    "measured": "measured on a device",
}


def _over_time(estimate: Estimate, timelines: Timelines | None, title: str) -> Html:
    if not timelines:
        return Html("")
    cards = cards_of(estimate)
    drawn = figure(
        lambda width: timeline_drawing(timelines, title, cards=cards, width=width, titled=False)
    )
    return section("Over the run", drawn)


def _alive(estimate: Estimate) -> Html:
    rows = [
        (
            item.module or OUTSIDE,
            format_bytes(item.num_bytes),
            str(item.count),
            _op(item),
        )
        for item in estimate.largest_alive
    ]
    header = ("module", "bytes", "times", "operator and phase")
    return table("Alive at the peak, largest first", header, rows, words=1)


def _op(item: Alive) -> str:
    op = op_text(item.op)
    return item.phase if op == item.phase else f"{op}, {item.phase}"


def _dtypes(estimate: Estimate) -> Html:
    header = ("dtype", "largest layer", "weights", "training with Adam")
    caption = "Weights alone; training: with gradients and both Adam states, without activations"
    return table(caption, header, dtype_rows(estimate))
