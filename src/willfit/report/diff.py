"""Two estimates side by side: which component of the peak moved, by how much, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from willfit.comparing.growth import Allowance, growth
from willfit.comparing.moved import moved
from willfit.comparing.recorded import recorded_of
from willfit.report.comparison_json import moved_json
from willfit.report.growth import growth_json, growth_lines
from willfit.report.text import table
from willfit.units import format_bytes

SavedEstimate = Mapping[str, Any]
"""An object of the contract ``willfit.estimate/1``."""


def diff_json(
    before: SavedEstimate, after: SavedEstimate, allowance: Allowance | None = None
) -> dict[str, Any]:
    """``willfit.diff/1``: components of both peaks, largest movement first; they add up.

    Raises `BrokenFileError` where an object lacks what the contract promises.
    """
    old, new = recorded_of(before), recorded_of(after)
    return {
        "schema": "willfit.diff/1",
        "a": _summary(before),
        "b": _summary(after),
        "components": [moved_json(part) for part in moved(old.components, new.components)],
        "change_bytes": new.peak_bytes - old.peak_bytes,
        "check": growth_json(growth(old, new, allowance or Allowance())),
    }


def render_diff(
    before: SavedEstimate, after: SavedEstimate, allowance: Allowance | None = None
) -> str:
    """The difference as a table; with an allowance also what grew past it."""
    difference = diff_json(before, after)
    rows = [
        (
            part["name"],
            format_bytes(part["a_bytes"]),
            format_bytes(part["b_bytes"]),
            _signed(part["change_bytes"]),
        )
        for part in difference["components"]
        if part["a_bytes"] or part["b_bytes"]
    ]
    a, b = difference["a"], difference["b"]
    total = (
        "device",
        format_bytes(a["device_bytes"]),
        format_bytes(b["device_bytes"]),
        _signed(difference["change_bytes"]),
    )
    lines = [f"A  {_title(a)}", f"B  {_title(b)}", ""]
    lines += table(("at the peak", "A", "B", "change"), [*rows, total])
    if allowance is not None:
        found = growth(recorded_of(before), recorded_of(after), allowance)
        lines += ["", *growth_lines(found)]
    return "\n".join(lines) + "\n"


def _summary(saved: SavedEstimate) -> dict[str, Any]:
    return {
        "model": str(saved["model"]["id"]),
        "phase": str(saved["peak"]["phase"]),
        "device_bytes": int(saved["peak"]["device_bytes"]),
        "verdict": saved.get("verdict"),
    }


def _title(side: Mapping[str, Any]) -> str:
    verdict = f", {str(side['verdict']).replace('_', ' ')}" if side["verdict"] else ""
    return f"{side['model']}: peak in {side['phase']}{verdict}"


def _signed(num_bytes: int) -> str:
    return f"{'+' if num_bytes > 0 else ''}{format_bytes(num_bytes)}" if num_bytes else "·"
