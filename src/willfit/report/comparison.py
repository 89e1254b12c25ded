"""Sides beside each other as text within 80 columns; `comparison_json` has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from willfit.comparing.fairness import letter
from willfit.comparing.moved import components_of
from willfit.comparing.result import Compared, Comparison
from willfit.report.beside import beside
from willfit.report.comparison_json import comparison_json
from willfit.report.measured_sides import measured_lines
from willfit.report.text import Style, table, titled, wrapped
from willfit.report.why import why
from willfit.results import Estimate
from willfit.units import format_bytes

__all__ = ["comparison_json", "render_comparison"]

_MOST_NAMED: Final = 6
"""Sides that are named where something is said of several."""
_VERDICTS: Final = {"fits": "green", "tight": "yellow", "does_not_fit": "red"}


def render_comparison(comparison: Comparison, style: Style | None = None) -> str:
    """The whole report: sides, peaks, components, what was measured, why they differ."""
    style = style or Style()
    blocks = [
        _legend(comparison, style),
        _peaks(comparison.entries, style),
        _components(comparison),
        measured_lines(comparison.entries, style),
        _facts(comparison),
        why(comparison, style),
        _remarks(comparison),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _letters(comparison: Comparison) -> list[str]:
    return [letter(index) for index in range(len(comparison.entries))]


def _legend(comparison: Comparison, style: Style) -> list[str]:
    """A letter for each side, and what is the same in all of them."""
    made = [entry.estimate for entry in comparison.entries if entry.estimate is not None]
    models = {estimate.scenario.model.id for estimate in made}
    levels = {estimate.level for estimate in made}
    lines: list[str] = []
    for name, entry in zip(_letters(comparison), comparison.entries, strict=True):
        model = _model(entry) if len(models) > 1 else ""
        lines += wrapped(f"{entry.label}{model}", first=f"{name}  ", rest="   ")
    common = [f"of {name}" for name in models if len(models) == 1]
    common += [f"with {comparison.shared}"] if comparison.shared else []
    common += [f"by {name}" for name in levels if len(levels) == 1]
    lines += wrapped(", ".join(common), first="each ", rest="  ") if common else []
    return [style.paint(line, "bold") for line in lines]


def _model(entry: Compared) -> str:
    """What a short name stands for."""
    if entry.estimate is None:
        return ""
    model = entry.estimate.scenario.model
    return "" if model.id in entry.label else f"  ({model.id})"


def _peaks(entries: Sequence[Compared], style: Style) -> list[str]:
    """A row a side: what it takes of its fullest GPU, and whether it fits."""
    made = [entry.estimate for entry in entries]
    if not any(made):
        return []
    columns = {
        "device": [_peak(e, "device_bytes") for e in made],
        "allocated": [_peak(e, "allocated_bytes") for e in made],
        "reserved": [_peak(e, "reserved_bytes") for e in made],
        "headroom": [_headroom(e) for e in made],
        "verdict": [_verdict(entry) for entry in entries],
        "batch": [_limit(e, "batch_size") for e in made],
        "context": [_limit(e, "context_len") for e in made],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    names = [letter(index) for index in range(len(entries))]
    rows = [(name, *(cells[i] for cells in kept.values())) for i, name in enumerate(names)]
    lines = table(("peak", *kept), rows)
    painted = [
        style.paint(line, _VERDICTS.get(str(entry.verdict), "dim")) if entry.verdict else line
        for line, entry in zip(lines[2:], entries, strict=True)
    ]
    largest = "  batch, context: the largest that fits, the rest unchanged"
    return [*lines[:2], *painted, *([largest] if "batch" in kept or "context" in kept else [])]


def _shown(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.refused is None


def _peak(estimate: Estimate | None, name: str) -> str:
    if estimate is None or not _shown(estimate):
        return "–"
    return format_bytes(getattr(estimate.binding.peak, name))


def _headroom(estimate: Estimate | None) -> str:
    if estimate is None or not _shown(estimate) or estimate.binding.headroom_bytes is None:
        return ""
    return format_bytes(estimate.binding.headroom_bytes)


def _verdict(entry: Compared) -> str:
    if entry.estimate is None:
        return "no number"
    if entry.estimate.refused is not None:
        return "refused"
    return str(entry.verdict or "").replace("_", " ")


def _limit(estimate: Estimate | None, name: str) -> str:
    number = getattr(estimate.limits, name) if estimate is not None else None
    return f"{number:,}" if number is not None else ""


def _components(comparison: Comparison) -> list[str]:
    """The components that differ; those that do not, said once."""
    sides = [
        (letter(i), components_of(e.estimate))
        for i, e in enumerate(comparison.entries)
        if e.estimate is not None and e.estimate.refused is None
    ]
    if len(sides) < 2:
        return []
    same = comparison.same_components
    names = dict.fromkeys(name for _, parts in sides for name, size in parts.items() if size)
    rows = {
        name: [format_bytes(parts.get(name, 0)) for _, parts in sides]
        for name in names
        if name not in same
    }
    lines = beside("at the peak", [name for name, _ in sides], rows) if rows else []
    told = ", ".join(f"{name} {format_bytes(size)}" for name, size in same.items())
    head = "the same in all: " if rows else "all components are the same: "
    return lines + (wrapped(told, first=f"  {head}", rest="    ") if told else [])


def _facts(comparison: Comparison) -> list[str]:
    """What the models do not share."""
    if not comparison.facts:
        return []
    names = [letter(i) for i, e in enumerate(comparison.entries) if e.estimate is not None]
    return beside("the models", names, comparison.facts)


def _remarks(comparison: Comparison) -> list[str]:
    """What to be careful about, what has no number, what was assumed: each said once."""
    said: dict[tuple[str, str], list[str]] = {}
    for name, entry in zip(_letters(comparison), comparison.entries, strict=True):
        for what, text in _own(entry):
            said.setdefault((what, text), []).append(name)
    lines = titled((("careful", comparison.remarks),))
    for (what, text), names in said.items():
        lines += titled(((f"{what} {_who(names, _letters(comparison))}", [text]),))
    return lines


def _who(names: Sequence[str], every: Sequence[str]) -> str:
    """``A, B and D``, ``all but C``, or how many."""
    missing = [name for name in every if name not in names]
    if not missing:
        return "all"
    if len(names) <= _MOST_NAMED:
        return _joined(names)
    if len(missing) <= _MOST_NAMED:
        return f"all but {_joined(missing)}"
    return f"{len(names)} of {len(every)}"


def _joined(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _own(entry: Compared) -> Iterator[tuple[str, str]]:
    if entry.reason is not None and entry.estimate is None:
        yield "no number for", entry.reason
    if (estimate := entry.estimate) is None:
        return
    refused = [] if estimate.refused is None else [estimate.refused]
    for what, texts in (
        ("refused in", refused),
        ("not supported in", estimate.unsupported),
        ("ignored in", estimate.ignored_settings),
        ("assumed in", estimate.assumptions),
    ):
        for text in texts:
            yield what, text
