"""A comparison as JSON ``willfit.compare/1``: every key stable, every byte count an integer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from willfit.comparing.result import Compared, Comparison, Difference, Moved, Step
from willfit.report.contract import estimate_json
from willfit.report.measured_sides import measurement_of

SCHEMA: Final = "willfit.compare/1"


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Every side with its numbers, and how each differs from the first."""
    return {
        "schema": SCHEMA,
        "shared": comparison.shared,
        "sides": [_side(entry) for entry in comparison.entries],
        "differences": [_difference(d, comparison.entries) for d in comparison.differences],
        "same": {
            "components": dict(comparison.same_components),
            "facts": dict(comparison.same_facts),
            "assumptions": list(comparison.same_assumptions),
        },
        "facts": {name: list(values) for name, values in comparison.facts.items()},
        "remarks": list(comparison.remarks),
        "fits": comparison.fits,
    }


def _side(entry: Compared) -> dict[str, Any]:
    made = None if entry.estimate is None else entry.saved or estimate_json(entry.estimate)
    return {
        "label": entry.label,
        "estimate": made,
        "measurement": measurement_of(entry, entry.measurement),
        "repeats": [measurement_of(entry, run) for run in entry.repeats],
        "reason": entry.reason,
    }


def _difference(difference: Difference, entries: Sequence[Compared]) -> dict[str, Any]:
    return {
        "a": entries[0].label,
        "b": entries[difference.index].label,
        "b_index": difference.index,
        "change_bytes": difference.change_bytes,
        "components": [moved_json(part) for part in difference.components],
        "steps": [_step(step) for step in difference.steps],
        "reasons": list(difference.reasons),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "settings": [
            {"path": p.path, "title": p.title, "a": p.before, "b": p.after} for p in step.parts
        ],
        "change_bytes": step.change_bytes,
        "components": [moved_json(part) for part in step.components],
    }


def moved_json(part: Moved) -> dict[str, Any]:
    """One component at both peaks."""
    return {
        "name": part.name,
        "a_bytes": part.a_bytes,
        "b_bytes": part.b_bytes,
        "change_bytes": part.change_bytes,
    }
