"""Sections of an estimate that several reports show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from willfit.report.bars import sorted_parts
from willfit.report.contract import scenario_json
from willfit.report.html.markup import Html, component, folded, html, listing, section, table
from willfit.report.peak import verdict_words
from willfit.report.phrases import gpus_text, note_texts, phase_rows, unknown_texts
from willfit.report.terminal import alike, places_text
from willfit.results import Estimate, GpuEstimate
from willfit.units import format_bytes


def machine_name(estimate: Estimate) -> str:
    """``2 × NVIDIA T4``; ``one GPU`` where none was named."""
    gpus = estimate.gpus
    return "one GPU" if gpus[0].capacity_bytes is None else gpus_text(gpus)


def said_of(estimate: Estimate) -> str:
    """Whether it fits, in words: the GPU's, the host's and the library's say."""
    if estimate.refused is not None:
        return f"would be refused: {estimate.refused}"
    said = verdict_words(estimate.binding)
    if estimate.off_gpu_bytes:
        said += f", with {format_bytes(estimate.off_gpu_bytes)} of weights off the GPU"
    return (
        said if estimate.host.fits is not False else f"{said}; the host's memory or disk is short"
    )


def breakdowns(estimate: Estimate) -> Html:
    """The parts of each GPU's peak, those of like GPUs once."""
    return Html("".join(breakdown(gpus) for gpus in alike(estimate.gpus)))


def breakdown(gpus: Sequence[GpuEstimate]) -> Html:
    """The parts of a peak, which add up to the device."""
    gpu = gpus[0]
    peak = gpu.peak
    share = f" ({gpu.layers})" if gpu.layers else ""
    rows: list[Sequence[str]] = [
        (component(part.name), format_bytes(part.num_bytes), part.note)
        for part in sorted_parts(gpu)
    ]
    rows.append(("device", format_bytes(peak.device_bytes), "what nvidia-smi shows"))
    caption = f"{places_text(gpus)}{share}, peak in {peak.name}"
    return table(caption, ("component", "at the peak", "how it came about"), rows, words=1)


def phases(gpu: GpuEstimate) -> Html:
    """Peaks phase by phase, loading included."""
    return table(
        "Peak of each phase", ("phase", "allocated", "reserved", "device"), phase_rows(gpu)
    )


def remarks(estimate: Estimate) -> Html:
    """What the numbers rest on and where they end."""
    return Html(
        section("Notes", listing(note_texts(estimate)))
        + section("Assumed", listing(estimate.assumptions))
        + section("Not known", listing(unknown_texts(estimate)))
        + section("Not supported", listing(estimate.unsupported))
        + section("Settings that were ignored", listing(estimate.ignored_settings))
    )


def settings(estimate: Estimate) -> Html:
    """Every setting of the scenario, and the versions it was computed for."""
    rows = list(_flat(scenario_json(estimate), ""))
    shown = table("The scenario", ("setting", "value"), rows, words=1)
    return folded("All settings and versions", html(shown))


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Settings by path; those that are not set are left out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}.{number}")
    elif isinstance(value, list):
        if value:
            yield path, ", ".join(map(str, value[:20])) + (" …" if len(value) > 20 else "")
    elif value not in (None, ""):
        yield path, str(value)
