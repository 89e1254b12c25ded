"""Memory over a traced run as a picture: a panel for each GPU, alone or in a page of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Final

from willfit.report.drawing import Area, Drawing, Line, Words, png, svg
from willfit.results import Timeline
from willfit.units import format_bytes

WIDTH: Final = 1000
HEIGHT: Final = 450
"""Of one GPU's panel, its legend included."""
NAME_WIDTH: Final = 60
"""Room that a phase's name takes."""
LEGEND_WIDTH: Final = 128
_LEFT, _TOP, _BOTTOM = 80, 24, 70
_COLORS: Final = {
    "weights": "#4c78a8", "quantization_state": "#9ecae9", "adapters": "#f58518",
    "kv_cache": "#ffbf79", "activations": "#54a24b", "logits": "#88d27a", "gradients": "#b79a20",
    "optimizer_states": "#f2cf5b", "temporaries": "#e45756", "workspaces": "#bab0ac",
    "communication": "#79706e",
}  # fmt: skip

Timelines = Mapping[int, Timeline]
"""A run's timeline on each GPU, by index."""


def timeline_svg(timelines: Timelines, title: str) -> str:
    """Stacked areas by component, reserved as a dashed line, the phases along the bottom."""
    return svg(_drawing(timelines, title))


def timeline_png(timelines: Timelines, title: str) -> bytes:
    """The same as a bitmap; raises `InputError` where Pillow is missing."""
    return png(_drawing(timelines, title))


def timeline_html(timelines: Timelines, title: str) -> str:
    """The picture in a page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<h1>{escape(title)}</h1><p>Allocated by component; dashed: reserved by the allocator.</p>"
        f"{timeline_svg(timelines, title)}</html>\n"
    )


def _drawing(timelines: Timelines, title: str) -> Drawing:
    shapes: list[Area | Line | Words] = []
    for panel, (gpu, timeline) in enumerate(sorted(timelines.items())):
        name = f"GPU {gpu}" if len(timelines) > 1 else ""
        shapes += _panel(timeline, panel * HEIGHT, name)
    return Drawing(width=WIDTH, height=HEIGHT * len(timelines), title=title, shapes=shapes)


def _panel(timeline: Timeline, top: float, name: str) -> Iterator[Area | Line | Words]:
    """One GPU's run between ``top`` and the legend below it."""
    moments = timeline.moments
    most = max((moment.reserved_bytes for moment in moments), default=1) * 1.05
    x = [_LEFT + (WIDTH - _LEFT) * i / max(len(moments) - 1, 1) for i in range(len(moments))]

    def y(amount: float) -> float:
        return top + _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - amount / most)

    names = [part for part in _COLORS if any(moment.components.get(part) for moment in moments)]
    base = [0.0] * len(moments)
    for part in names:
        upper = [b + m.components.get(part, 0) for b, m in zip(base, moments, strict=True)]
        edge = [(a, y(b)) for a, b in zip(x, upper, strict=True)]
        edge += [(a, y(b)) for a, b in reversed(list(zip(x, base, strict=True)))]
        yield Area(points=edge, color=_COLORS[part], name=part)
        base = upper
    reserved = [(a, y(moment.reserved_bytes)) for a, moment in zip(x, moments, strict=True)]
    yield Line(points=reserved, color="black", dashed=True)
    yield Words(at=(_LEFT, top + _TOP - 8), text=name)
    yield from _scale(most, y)
    yield from _phases(timeline, x, top)
    yield from _legend(names, top)


def _scale(most: float, y: Callable[[float], float]) -> Iterator[Words]:
    for part in range(5):
        amount = most * part / 4
        yield Words(at=(_LEFT - 6, y(amount) + 4), text=format_bytes(int(amount)), anchor="end")


def _phases(timeline: Timeline, x: Sequence[float], top: float) -> Iterator[Line | Words]:
    """A line where a phase begins, and its name where it lasts long enough to be read."""
    starts = [
        index
        for index, moment in enumerate(timeline.moments)
        if index == 0 or moment.phase != timeline.moments[index - 1].phase
    ]
    bottom = top + HEIGHT - _BOTTOM
    for start, end in pairwise([*starts, len(x) - 1]):
        yield Line(points=[(x[start], top + _TOP), (x[start], bottom)], color="#bbbbbb")
        if x[end] - x[start] >= NAME_WIDTH:
            yield Words(at=(x[start], bottom + 16), text=timeline.moments[start].phase)


def _legend(names: Sequence[str], top: float) -> Iterator[Area | Words]:
    """A square and a name for every component, in as many rows as they need."""
    columns = (WIDTH - 20) // LEGEND_WIDTH
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        left, upper = 20 + column * LEGEND_WIDTH, top + HEIGHT - 44 + 18 * row
        square = [(left, upper), (left + 10, upper), (left + 10, upper + 10), (left, upper + 10)]
        yield Area(points=square, color=_COLORS[name], name=name)
        yield Words(at=(left + 14, upper + 9), text=name)
