"""Memory over a traced run as a picture: one SVG, alone or in a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from willfit.results import Timeline
from willfit.units import format_bytes

WIDTH: Final = 1000
HEIGHT: Final = 420
NAME_WIDTH: Final = 60
"""Room that a phase's name takes."""
_LEFT, _TOP, _BOTTOM = 80, 20, 40
_COLORS: Final = {
    "weights": "#4c78a8", "quantization_state": "#9ecae9", "adapters": "#f58518",
    "kv_cache": "#ffbf79", "activations": "#54a24b", "logits": "#88d27a", "gradients": "#b79a20",
    "optimizer_states": "#f2cf5b", "temporaries": "#e45756", "workspaces": "#bab0ac",
    "communication": "#79706e",
}  # fmt: skip


def timeline_svg(timeline: Timeline, title: str) -> str:
    """Stacked areas by component, reserved as a line, the phases along the bottom."""
    top = max((moment.reserved_bytes for moment in timeline.moments), default=1) * 1.05
    x = [_LEFT + (WIDTH - _LEFT) * i / max(len(timeline.moments) - 1, 1)
         for i in range(len(timeline.moments))]  # fmt: skip

    def y(amount: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - amount / top)

    base = [0.0] * len(timeline.moments)
    areas: list[str] = []
    names = [n for n in _COLORS if any(m.components.get(n) for m in timeline.moments)]
    for name in names:
        upper = [b + m.components.get(name, 0) for b, m in zip(base, timeline.moments, strict=True)]
        points = [f"{a:.1f},{y(b):.1f}" for a, b in zip(x, upper, strict=True)]
        points += [f"{a:.1f},{y(b):.1f}" for a, b in reversed(list(zip(x, base, strict=True)))]
        areas.append(
            f'<polygon points="{" ".join(points)}" fill="{_COLORS[name]}"><title>{name}</title>'
            "</polygon>"
        )
        base = upper
    line = " ".join(
        f"{a:.1f},{y(m.reserved_bytes):.1f}" for a, m in zip(x, timeline.moments, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 30}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT + 30}" fill="white"/>{"".join(areas)}'
        f'<polyline points="{line}" fill="none" stroke="black" stroke-dasharray="4 3"/>'
        f"{_scale(top, y)}{_phases(timeline, x)}{_legend(names)}</svg>\n"
    )


def timeline_html(timeline: Timeline, title: str) -> str:
    """The picture in a page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<h1>{escape(title)}</h1><p>Allocated by component; dashed: reserved by the allocator.</p>"
        f"{timeline_svg(timeline, title)}</html>\n"
    )


def _scale(top: float, y: Callable[[float], float]) -> str:
    marks = []
    for part in range(5):
        amount = top * part / 4
        marks.append(
            f'<text x="{_LEFT - 6}" y="{y(amount) + 4:.1f}" text-anchor="end">'
            f"{format_bytes(int(amount))}</text>"
        )
    return "".join(marks)


def _phases(timeline: Timeline, x: Sequence[float]) -> str:
    """A line where a phase begins, and its name where it lasts long enough to be read."""
    starts = [
        index
        for index, moment in enumerate(timeline.moments)
        if index == 0 or moment.phase != timeline.moments[index - 1].phase
    ]
    drawn: list[str] = []
    for start, end in zip(starts, [*starts[1:], len(x) - 1], strict=True):
        left = f"{x[start]:.1f}"
        drawn.append(
            f'<line x1="{left}" x2="{left}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" stroke="gray" '
            'stroke-opacity="0.4"/>'
        )
        if x[end] - x[start] >= NAME_WIDTH:
            phase = timeline.moments[start].phase
            drawn.append(f'<text x="{left}" y="{HEIGHT - _BOTTOM + 16}">{phase}</text>')
    return "".join(drawn)


def _legend(names: Sequence[str]) -> str:
    drawn = []
    for index, name in enumerate(names):
        left = _LEFT + index * 128 - 60
        drawn.append(
            f'<rect x="{left}" y="{HEIGHT}" width="10" height="10" fill="{_COLORS[name]}"/>'
            f'<text x="{left + 14}" y="{HEIGHT + 9}">{name}</text>'
        )
    return "".join(drawn)
