"""Why sides differ, as text: settings with what they moved, components with arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from willfit.comparing.fairness import letter
from willfit.comparing.result import Comparison, Difference, Moved, Part, Step
from willfit.comparing.words import signed
from willfit.report.text import Style, wrapped

_MOST_COMPONENTS: Final = 3
"""Components that are named of one step; the JSON has all."""
_AMOUNT: Final = 11
"""Columns of an amount with its sign."""


def why(comparison: Comparison, style: Style) -> list[str]:
    """A paragraph for each side but the first; none where nothing differs."""
    lines: list[str] = []
    for difference in comparison.differences:
        name = letter(difference.index)
        lines += [""] if lines else []
        lines.append(style.paint(f"{name} against A: {_total(difference)}", "bold"))
        steps = _steps(difference.steps)
        if steps and _levels(comparison, difference) != {"formula"}:
            lines.append("  one setting at a time, by formula:")
        lines += steps
        for sentence in difference.reasons:
            lines += wrapped(sentence, first="  ", rest="    ")
    return lines


def _levels(comparison: Comparison, difference: Difference) -> set[str]:
    pair = (comparison.entries[0], comparison.entries[difference.index])
    return {entry.estimate.level for entry in pair if entry.estimate is not None}


def _total(difference: Difference) -> str:
    if difference.change_bytes:
        return f"{signed(difference.change_bytes)} at the peak"
    if difference.steps and not any(step.has_effect for step in difference.steps):
        return "nothing that was changed has an effect on what it takes"
    return "the same peak"


def _steps(steps: Sequence[Step]) -> list[str]:
    """One setting after the other; the model alone needs no list of one."""
    if len(steps) == 1 and all(part.path == "model" for part in steps[0].parts):
        return []
    return [line for step in steps for line in _step(step)]


def _step(step: Step) -> list[str]:
    amount = signed(step.change_bytes) if step.change_bytes else "·"
    changed = " and ".join(map(_part, step.parts))
    parts = ", ".join(_component(part) for part in step.components[:_MOST_COMPONENTS])
    said = f"{changed}: {parts if step.has_effect else _no_effect(step)}"
    return wrapped(said, first=f"  {amount:>{_AMOUNT}}  ", rest=" " * (_AMOUNT + 6))


def _no_effect(step: Step) -> str:
    """A machine does not change what is taken, but what there is."""
    if all(part.path.startswith("machine") for part in step.parts):
        return "takes the same, of another budget"
    return "no effect on the memory"


def _part(part: Part) -> str:
    return f"{part.title} {part.before} → {part.after}"


def _component(part: Moved) -> str:
    return f"{part.name} {signed(part.change_bytes)}"
