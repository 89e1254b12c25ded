"""An estimate as text for a terminal, within 80 columns."""

from __future__ import annotations

from typing import Final

from willfit.report.text import Style, bar, table, wrapped
from willfit.results import Component, Estimate, GpuEstimate
from willfit.units import format_bytes

_VERDICT: Final = {
    "fits": ("fits", "green"),
    "tight": ("tight: inside the range of what is not known", "yellow"),
    "does_not_fit": ("does not fit", "red"),
}
_WORDS: Final = {"load": "while loading", "prefill": "in prefill", "decode": "in decoding"}


def render(estimate: Estimate, style: Style | None = None, *, breakdown: bool = True) -> str:
    """The whole report: model, dtype table, breakdown, verdict, limits, what was assumed."""
    style = style or Style()
    lines = [*_heading(estimate, style), ""]
    if estimate.dtypes:
        lines += [*_dtypes(estimate), ""]
    if breakdown:
        for gpu in estimate.gpus:
            lines += [*_breakdown(gpu, style), ""]
        lines += [*_verdict(estimate, style), ""]
    lines += _remarks(estimate)
    return "\n".join(lines).rstrip() + "\n"


def _heading(estimate: Estimate, style: Style) -> list[str]:
    model = estimate.scenario.model
    facts = f"{estimate.num_params:,} parameters, stored as {model.stored_dtype.name}"
    if model.quantization is not None:
        facts += f", already quantised ({model.quantization.method})"
    lines = [f"{style.paint(model.id, 'bold')}  {model.model_class}", f"  {facts}"]
    return lines + wrapped(f"from the {model.source}: {model.standing}", first="  ", rest="  ")


def _dtypes(estimate: Estimate) -> list[str]:
    rows = [
        (
            row.dtype,
            format_bytes(row.largest_layer_bytes),
            format_bytes(row.total_bytes),
            "n/a" if row.training_adam_bytes is None else format_bytes(row.training_adam_bytes),
        )
        for row in estimate.dtypes
    ]
    lines = table(("dtype", "largest layer", "weights", "training with Adam*"), rows)
    lines.append("  * weights, gradients and both Adam states; activations come on top (--train)")
    return lines


def _breakdown(gpu: GpuEstimate, style: Style) -> list[str]:
    peak = gpu.peak
    where = f"GPU {gpu.index} {gpu.name}" if gpu.capacity_bytes is not None else "one GPU"
    share = f" ({gpu.layers})" if gpu.layers else ""
    lines = wrapped(
        f"{where}{share}: peak {_WORDS.get(peak.name, 'in ' + peak.name)}", first="", rest="  "
    )
    parts = [part for part in peak.components if part.num_bytes]
    name_width = max(len(part.name) for part in parts)
    for part in parts:
        lines += _part(part, name_width)
    total = f"  {'device'.ljust(name_width)}  {format_bytes(peak.device_bytes):>10}"
    detail = (
        f"  allocated {format_bytes(peak.allocated_bytes)}, "
        f"reserved {format_bytes(peak.reserved_bytes)}"
    )
    lines.append(style.paint(total, "bold") + detail)
    if gpu.budget_bytes is not None:
        lines.append(f"  {bar([part.num_bytes for part in parts], gpu.budget_bytes)}")
        lines.append(f"  of {format_bytes(gpu.budget_bytes)} usable, {_headroom(gpu)}")
    return lines


def _part(part: Component, name_width: int) -> list[str]:
    head = f"  {part.name.ljust(name_width)}  {format_bytes(part.num_bytes):>10}  "
    return wrapped(part.note, first=head, rest=" " * len(head)) if part.note else [head.rstrip()]


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
        lines.append(f"verdict: {style.paint(words, color)}  (range {ends})")
    if estimate.refused is not None:
        lines += wrapped(estimate.refused, first="refused: ", rest="  ")
    limits = estimate.limits
    parts = []
    if limits.batch_size is not None:
        parts.append(f"batch {limits.batch_size}")
    if limits.context_len is not None:
        parts.append(f"context {limits.context_len:,}")
    if parts:
        lines.append(f"largest that fits, the rest unchanged: {' or '.join(parts)}")
    return lines


def _remarks(estimate: Estimate) -> list[str]:
    lines: list[str] = []
    for title, items in (
        ("note", tuple(f"{topic}: {text}" for topic, text in estimate.notes.items())),
        ("assumed", estimate.assumptions),
        ("not known", tuple(f"{u.name} ({format_bytes(u.low_bytes)} to "
                            f"{format_bytes(u.high_bytes)})" for u in estimate.unknowns)),
        ("not supported", estimate.unsupported),
        ("ignored", estimate.ignored_settings),
    ):  # fmt: skip
        for item in items:
            lines += wrapped(item, first=f"{title}: ", rest="  ")
    return lines
