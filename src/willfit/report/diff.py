"""Two estimates side by side: which component of the peak moved, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from willfit.errors import BrokenFileError
from willfit.report.text import table
from willfit.units import format_bytes

SavedEstimate = Mapping[str, Any]
"""An object of the contract ``willfit.estimate/1``."""


def diff_json(before: SavedEstimate, after: SavedEstimate) -> dict[str, Any]:
    """``willfit.diff/1``: components of both peaks, largest movement first; they add up."""
    try:
        old, new = _components(before), _components(after)
        names = sorted({**old, **new}, key=lambda name: -abs(new.get(name, 0) - old.get(name, 0)))
        return {
            "schema": "willfit.diff/1",
            "a": _summary(before),
            "b": _summary(after),
            "components": [
                {
                    "name": name,
                    "a_bytes": old.get(name, 0),
                    "b_bytes": new.get(name, 0),
                    "change_bytes": new.get(name, 0) - old.get(name, 0),
                }
                for name in names
            ],
            "change_bytes": after["peak"]["device_bytes"] - before["peak"]["device_bytes"],
        }
    except (KeyError, TypeError, AttributeError):
        raise BrokenFileError(
            "a saved estimate lacks its components or its peak: "
            "save it again with 'willfit estimate … --json'"
        ) from None


def render_diff(difference: Mapping[str, Any]) -> str:
    """The difference as a table."""
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
    return "\n".join(lines) + "\n"


def _components(saved: SavedEstimate) -> dict[str, int]:
    return {str(part["name"]): int(part["bytes"]) for part in saved["components"]}


def _summary(saved: SavedEstimate) -> dict[str, Any]:
    return {
        "model": saved["model"]["id"],
        "phase": saved["peak"]["phase"],
        "device_bytes": int(saved["peak"]["device_bytes"]),
        "verdict": saved["verdict"],
    }


def _title(side: Mapping[str, Any]) -> str:
    verdict = f", {str(side['verdict']).replace('_', ' ')}" if side["verdict"] else ""
    return f"{side['model']}: peak in {side['phase']}{verdict}"


def _signed(num_bytes: int) -> str:
    return f"{'+' if num_bytes > 0 else ''}{format_bytes(num_bytes)}" if num_bytes else "·"
