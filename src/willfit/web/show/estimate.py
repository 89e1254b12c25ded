"""An estimate on the page: verdict, picture, table, and what was assumed."""

from __future__ import annotations

from collections.abc import Iterator

from willfit.report.palette import look
from willfit.report.peak import sides_of
from willfit.report.phrases import limits_text, note_texts, phase_rows, unknown_texts
from willfit.report.terminal import alike, places_text
from willfit.results import Estimate, GpuEstimate
from willfit.units import format_bytes
from willfit.web.show.pieces import (
    bars,
    folded,
    heading,
    listed,
    standing_of,
    table,
    text,
    verdict,
)

_PHASES = {
    "load": "while loading", "prefill": "in prefill", "forward": "in the forward pass",
    "decode": "in decoding", "backward": "in backward", "step": "in the optimizer step",
}  # fmt: skip


def estimate_part(estimate: Estimate) -> str:
    """The whole answer."""
    shown = "" if estimate.refused else bars(sides_of(estimate), _title(estimate))
    tables = "" if estimate.refused else "".join(_gpus(estimate))
    return "".join(
        (
            verdict(standing_of(estimate), said_of(estimate), _more(estimate)),
            shown,
            tables,
            folded("Phases", _phases(estimate)),
            folded("The weights in other types", _dtypes(estimate)),
            folded("What was assumed, and what is not known", _assumed(estimate)),
        )
    )


def said_of(estimate: Estimate) -> str:
    """The verdict in a sentence."""
    binding = estimate.binding
    needs = format_bytes(binding.peak.device_bytes)
    if estimate.unsupported:
        return f"No trustworthy number: {estimate.unsupported[0]}."
    if estimate.refused is not None:
        return f"Cannot be loaded this way: {estimate.refused}."
    if estimate.verdict is None or binding.budget_bytes is None:
        return f"Needs {needs} on one GPU, {phase_words(binding.peak.name)}."
    has = f"{format_bytes(binding.budget_bytes)} of {_where(estimate)}"
    headroom = binding.headroom_bytes or 0
    if estimate.verdict == "fits":
        return f"Fits: {needs} of the {has}; {format_bytes(headroom)} to spare."
    if estimate.verdict == "tight":
        high = format_bytes(binding.high_device_bytes)
        return f"Tight: {needs} of the {has}, and up to {high} with what is not known."
    if headroom >= 0:
        return f"Does not fit: the host's memory is too small; {needs} of the {has} would do."
    return f"Does not fit: {needs}, {format_bytes(-headroom)} more than the {has}."


def phase_words(name: str) -> str:
    """When a peak is."""
    return _PHASES.get(name, f"in {name}")


def _where(estimate: Estimate) -> str:
    binding = estimate.binding
    if len(estimate.gpus) == 1:
        return binding.name
    return f"GPU {binding.index}, {binding.name}"


def _title(estimate: Estimate) -> str:
    return f"{estimate.scenario.model.id}: what fills the GPU at its peak"


def _more(estimate: Estimate) -> str:
    model = estimate.scenario.model
    count = f"{model.id}, {estimate.num_params:,} parameters"
    if estimate.num_trainable_params and estimate.scenario.workload.training is not None:
        count += f", {estimate.num_trainable_params:,} trained"
    parts = [count, f"peak {phase_words(estimate.binding.peak.name)}"]
    largest = limits_text(estimate.limits)
    if largest:
        parts.append(f"largest that fits, the rest unchanged: {largest}")
    if estimate.off_gpu_bytes:
        parts.append(f"{format_bytes(estimate.off_gpu_bytes)} of the weights are off the GPU")
    return "; ".join(parts) + "."


def _gpus(estimate: Estimate) -> Iterator[str]:
    """A table for each kind of GPU that holds the same."""
    for gpus in alike(estimate.gpus):
        gpu = gpus[0]
        title = places_text(gpus) + (f" ({gpu.layers})" if gpu.layers else "")
        yield heading(title) if len(estimate.gpus) > 1 else ""
        yield table(f"Memory of {title} at its peak", ("Part", "Memory", "How"), _rows(gpu))


def _rows(gpu: GpuEstimate) -> Iterator[tuple[str, str, str]]:
    peak = gpu.peak
    for part in peak.components:
        if part.num_bytes:
            seen = look(part.name)
            chip = f'<span class="wf-chip" style="background:{seen.color}"></span>'
            yield f"{chip}{text(seen.words)}", format_bytes(part.num_bytes), text(part.note)
    inside = (
        f"allocated {format_bytes(peak.allocated_bytes)}, "
        f"reserved {format_bytes(peak.reserved_bytes)}"
    )
    yield "<strong>in all</strong>", f"<strong>{format_bytes(peak.device_bytes)}</strong>", inside


def _phases(estimate: Estimate) -> str:
    rows = ((text(name), *amounts) for name, *amounts in phase_rows(estimate.binding))
    return table("Peak of each phase", ("Phase", "Allocated", "Reserved", "On the device"), rows)


def _dtypes(estimate: Estimate) -> str:
    rows = [
        (
            text(row.dtype),
            format_bytes(row.total_bytes),
            format_bytes(row.largest_layer_bytes),
            "–" if row.training_adam_bytes is None else format_bytes(row.training_adam_bytes),
        )
        for row in estimate.dtypes
    ]
    header = ("Type", "Weights", "Largest layer", "With Adam, without activations")
    return table("Weights by type", header, rows) if rows else ""


def _assumed(estimate: Estimate) -> str:
    lists = (
        ("Not supported", estimate.unsupported),
        ("Not known", list(unknown_texts(estimate))),
        ("Assumed", estimate.assumptions),
        ("Ignored", estimate.ignored_settings),
        ("Notes", list(note_texts(estimate))),
    )
    return "".join(f"<h3>{title}</h3>{listed(said)}" for title, said in lists if said)
