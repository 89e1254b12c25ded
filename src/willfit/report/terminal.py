"""An estimate as text for a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Final

from willfit.report.phrases import (
    OUTSIDE,
    dtype_rows,
    failure_place,
    limits_text,
    note_texts,
    op_text,
    unknown_texts,
)
from willfit.report.text import GLYPHS, Style, bar, table, titled, wrapped
from willfit.results import Alive, Component, Estimate, Failure, GpuEstimate
from willfit.units import format_bytes

_VERDICT: Final = {
    "fits": ("fits", "green"),
    "tight": ("tight: inside the range", "yellow"),
    "does_not_fit": ("does not fit", "red"),
}
_SOURCES: Final = {
    "catalogue": "the catalogue", "hub": "the Hub", "local": "local files", "gguf": "a GGUF file",
}  # fmt: skip
_WORDS: Final = {
    "load": "while loading",
    "prefill": "in prefill",
    "forward": "in the forward pass",
    "decode": "in decoding",
}


def render(estimate: Estimate, style: Style | None = None, *, breakdown: bool = True) -> str:
    """The whole report: model, dtype table, breakdown, verdict, limits, what was assumed."""
    style = style or Style()
    lines = [*_heading(estimate, style), ""]
    if estimate.dtypes:
        lines += [*_dtypes(estimate), ""]
    if breakdown:
        for gpus in alike(() if estimate.refused else estimate.gpus):
            lines += [*_breakdown(gpus, style), ""]
        if estimate.failure is not None:
            lines += [*_failure(estimate.failure), ""]
        if estimate.largest_alive:
            lines += [*_alive(estimate.largest_alive), ""]
        lines += [*_verdict(estimate, style), ""]
    lines += _remarks(estimate)
    return "\n".join(lines).rstrip() + "\n"


def _heading(estimate: Estimate, style: Style) -> list[str]:
    model = estimate.scenario.model
    facts = f"{estimate.num_params:,} parameters, stored as {model.stored_dtype.name}"
    if model.quantization is not None:
        facts += f", already quantised ({model.quantization.method})"
    lines = [f"{style.paint(model.id, 'bold')}  {model.model_class}", f"  {facts}"]
    return lines + wrapped(
        f"from {_SOURCES.get(model.source, model.source)}: {model.standing}", first="  ", rest="  "
    )


def _dtypes(estimate: Estimate) -> list[str]:
    header = ("dtype", "largest layer", "weights", "training with Adam*")
    lines = table(header, dtype_rows(estimate))
    lines.append("  * weights, gradients and both Adam states; activations come on top (--train)")
    return lines


def alike(gpus: Sequence[GpuEstimate]) -> list[list[GpuEstimate]]:
    """Neighbouring GPUs with the same name and the same peak, shown once."""
    groups: list[list[GpuEstimate]] = []
    for gpu in gpus:
        last = groups[-1][-1] if groups else None
        if last is not None and (last.name, last.peak) == (gpu.name, gpu.peak):
            groups[-1].append(gpu)
        else:
            groups.append([gpu])
    return groups


def _breakdown(gpus: Sequence[GpuEstimate], style: Style) -> list[str]:
    gpu, peak = gpus[0], gpus[0].peak
    share = f" ({gpu.layers})" if gpu.layers else ""
    lines = wrapped(
        f"{places_text(gpus)}{share}: peak {_WORDS.get(peak.name, 'in ' + peak.name)}",
        first="",
        rest="  ",
    )
    parts = [part for part in peak.components if part.num_bytes]
    name_width = max(len(part.name) for part in parts)
    for glyph, part in zip(cycle(GLYPHS), parts, strict=False):
        lines += _part(glyph, part, name_width)
    total = f"  device  {' ' * (name_width - 4)}{format_bytes(peak.device_bytes):>10}"
    detail = (
        f"  allocated {format_bytes(peak.allocated_bytes)}, "
        f"reserved {format_bytes(peak.reserved_bytes)}"
    )
    lines.append(style.paint(total, "bold") + detail)
    if gpu.budget_bytes is not None:
        lines.append(f"  {bar([part.num_bytes for part in parts], gpu.budget_bytes)}")
        lines.append(f"  of {format_bytes(gpu.budget_bytes)} usable, {_headroom(gpu)}")
    return lines


def places_text(gpus: Sequence[GpuEstimate]) -> str:
    """``GPU 0 NVIDIA T4``, or ``GPU 0 to 7, each NVIDIA T4``."""
    first, last = gpus[0], gpus[-1]
    if first.capacity_bytes is None:
        return "one GPU"
    if first is last:
        return f"GPU {first.index} {first.name}"
    return f"GPU {first.index} to {last.index}, each {first.name}"


def _part(glyph: str, part: Component, name_width: int) -> list[str]:
    head = f"  {glyph} {part.name.ljust(name_width)}  {format_bytes(part.num_bytes):>10}  "
    return wrapped(part.note, first=head, rest=" " * len(head)) if part.note else [head.rstrip()]


def _alive(alive: Sequence[Alive]) -> list[str]:
    """The largest things at the peak, each with the module that allocated it."""
    lines = ["largest at the peak:"]
    for item in alive:
        times = f"{item.count} × " if item.count > 1 else ""
        op = op_text(item.op)
        made = op if item.phase == "load" or op == item.phase else f"{op}, {item.phase}"
        head = f"  {format_bytes(item.num_bytes):>10}  "
        where = item.module or OUTSIDE
        lines += wrapped(f"{times}{where} ({made})", first=head, rest=" " * len(head))
    return lines


def _failure(failure: Failure) -> list[str]:
    """Where a traced run ends, and torch's own words for it."""
    when = _WORDS.get(failure.phase, f"in {failure.phase}")
    where, op = failure_place(failure), op_text(failure.op)
    head = f"would end {when} on GPU {failure.gpu_index}, {where} ({op}):"
    message = failure.message.partition(" If reserved but unallocated")[0]
    return [*wrapped(head, first="", rest="  "), *wrapped(message, first="  ", rest="  ")]


def _headroom(gpu: GpuEstimate) -> str:
    headroom = gpu.headroom_bytes or 0
    if headroom < 0:
        return f"{format_bytes(-headroom)} too much"
    return f"headroom {format_bytes(headroom)}"


def _verdict(estimate: Estimate, style: Style) -> list[str]:
    lines: list[str] = []
    if estimate.verdict is not None:
        words, color = _VERDICT[estimate.verdict]
        binding = estimate.binding
        ends = (
            f"{format_bytes(binding.low_device_bytes)} to {format_bytes(binding.high_device_bytes)}"
        )
        if estimate.off_gpu_bytes:
            words += f", with {format_bytes(estimate.off_gpu_bytes)} of weights off the GPU"
        lines.append(f"verdict: {style.paint(words, color)}  (range {ends})")
    if estimate.refused is not None:
        lines += wrapped(estimate.refused, first="refused: ", rest="  ")
    largest = limits_text(estimate.limits)
    if largest:
        lines.append(f"largest that fits, the rest unchanged: {largest}")
    return lines


def _remarks(estimate: Estimate) -> list[str]:
    return titled(
        (
            ("note", note_texts(estimate)),
            ("assumed", estimate.assumptions),
            ("not known", unknown_texts(estimate)),
            ("not supported", estimate.unsupported),
            ("ignored", estimate.ignored_settings),
        )
    )
