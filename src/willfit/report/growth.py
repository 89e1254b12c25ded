"""Growth of a peak as text: what grew and by how much, what was changed, what shrank."""

from __future__ import annotations

from typing import Any

from willfit.comparing.growth import Growth
from willfit.comparing.result import Moved, Part
from willfit.comparing.words import signed
from willfit.report.comparison_json import moved_json
from willfit.report.text import wrapped
from willfit.units import format_bytes


def growth_lines(found: Growth) -> list[str]:
    """What grew past the allowance, why, and what shrank; a line where nothing did either."""
    lines: list[str] = []
    for part in _reported(found):
        lines += wrapped(_grew(part, found), first="grew: ", rest="  ")
    if found.passes:
        past = f" by more than {_allowed(found)}" if found.allowed_bytes else ""
        lines.append(f"nothing grew{past}")
    if found.differs or found.settings:
        lines += wrapped(because(found), first="changed: ", rest="  ")
    if found.shrunk:
        shrunk = ", ".join(f"{part.name} {signed(part.change_bytes)}" for part in found.shrunk)
        lines += wrapped(shrunk, first="shrank: ", rest="  ")
    return lines


def _reported(found: Growth) -> list[Moved]:
    return [*found.grown, *([found.peak] if found.peak_grew else [])]


def _grew(part: Moved, found: Growth) -> str:
    name = "the peak" if part is found.peak else part.name
    amounts = f"{format_bytes(part.a_bytes)} → {format_bytes(part.b_bytes)}"
    return f"{name} {signed(part.change_bytes)} ({amounts}), allowed {_allowed(found)}"


def _allowed(found: Growth) -> str:
    text = found.allowance.text
    amount = format_bytes(found.allowed_bytes)
    return f"{text} ({amount})" if text.endswith("%") else amount


def because(found: Growth) -> str:
    """What is not as it was: settings, and where none is, willfit itself or the code."""
    said = [_part(part) for part in found.settings]
    if found.before.phase != found.after.phase:
        said.append(f"the peak is in {found.after.phase}, not in {found.before.phase}")
    old, new = found.before.willfit, found.after.willfit
    versions = f"willfit {old} → {new}" if old and new and old != new else ""
    if found.by_willfit and found.differs:
        said.append(f"no setting of yours: {versions or 'willfit'} finds another number")
    elif versions:
        said.append(versions)
    if not said:
        return "the code, no setting" if found.after.level == "measured" else "nothing"
    return ", ".join(said)


def _part(part: Part) -> str:
    return f"{part.title} {part.before} → {part.after}"


def growth_json(found: Growth) -> dict[str, Any]:
    """The check's part of ``willfit.diff/1``."""
    return {
        "passes": found.passes,
        "allowed_bytes": found.allowed_bytes,
        "grown": [moved_json(part) for part in found.grown],
        "shrunk": [moved_json(part) for part in found.shrunk],
        "peak_grew": found.peak_grew,
        "settings": [
            {"path": p.path, "title": p.title, "a": p.before, "b": p.after} for p in found.settings
        ],
        "by_willfit": found.by_willfit and found.differs,
        "willfit": {"a": found.before.willfit, "b": found.after.willfit},
    }
