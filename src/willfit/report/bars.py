"""One stacked bar: the components of a GPU's peak against what it can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from willfit.report.drawing import Area, Line, Point, Shape, Words
from willfit.report.palette import ink_on, look, place
from willfit.report.parts import boxed, hatched
from willfit.report.writing import lines_of, text_width
from willfit.results import Component, GpuEstimate
from willfit.units import format_bytes

MARGIN: Final = 14
_HEIGHT: Final = 32
_BAND: Final = 8
"""Height of the hatching over what does not fit."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Where amounts are on the page: all bars have one scale."""

    width: int
    most_bytes: int

    @property
    def room(self) -> float:
        """Units between the margins."""
        return self.width - 2 * MARGIN

    def x(self, num_bytes: float) -> float:
        """Where an amount ends."""
        return MARGIN + self.room * num_bytes / self.most_bytes


def bar(
    page: Page, label: str, words: str, gpu: GpuEstimate, y: float
) -> tuple[list[Shape], float]:
    """A bar below ``y`` with its label and words, and where it ends."""
    shapes: list[Shape] = []
    for text, most, bold in ((label, 3, True), (words, 4, False)):
        for line in lines_of(text, page.room, 12, most, bold=bold):
            y += 17
            shapes.append(Words(at=(MARGIN, y), text=line, bold=bold))
    y += 12 + _BAND
    shapes += [*_segments(page, gpu, y), *_room(page, gpu, y), *_capacity(page, gpu, y)]
    shapes += _range(page, gpu, y + _HEIGHT + 8)
    return shapes, y + _HEIGHT + 22


def _segments(page: Page, gpu: GpuEstimate, y: float) -> Iterator[Shape]:
    """The components side by side, named where there is room."""
    start, end = 0, page.x(gpu.budget_bytes or 0)
    for part in sorted_parts(gpu):
        left, right = page.x(start), page.x(start + part.num_bytes)
        gap = 1 if right - left > 4 else 0
        color = look(part.name).color
        yield Area(points=boxed(left, y, right - gap, y + _HEIGHT), color=color, name=_named(part))
        left, right = _clear(left, right, end)
        text = _label(part, right - left - 10)
        if text:
            at = ((left + right) / 2, y + _HEIGHT / 2 + 4)
            yield Words(at=at, text=text, anchor="middle", color=ink_on(color))
        start += part.num_bytes
    if start:
        yield Line(strokes=[_ring(page.x(0), y, page.x(start), y + _HEIGHT)])


def _clear(left: float, right: float, line: float) -> tuple[float, float]:
    """The larger part of a segment beside the line of what may be used."""
    if not left < line < right:
        return left, right
    return (left, line) if line - left > right - line else (line, right)


def _room(page: Page, gpu: GpuEstimate, y: float) -> Iterator[Shape]:
    """What is free, or a hatched band over what is too much."""
    if gpu.budget_bytes is None or gpu.headroom_bytes is None:
        return
    used, budget = page.x(gpu.peak.device_bytes), page.x(gpu.budget_bytes)
    if gpu.headroom_bytes < 0:
        box = (budget, y - _BAND - 2, used, y - 2)
        yield Line(strokes=[_ring(*box), *hatched(*box)])
        return
    yield Line(strokes=[_ring(used, y, budget, y + _HEIGHT)], dashed=True)
    tries = (f"{format_bytes(gpu.headroom_bytes)} free", "free")
    text = next((text for text in tries if text_width(text, 12) <= budget - used - 10), "")
    if text:
        yield Words(at=((used + budget) / 2, y + _HEIGHT / 2 + 4), text=text, anchor="middle")


def _capacity(page: Page, gpu: GpuEstimate, y: float) -> Iterator[Shape]:
    """A thick line where what may be used ends, a thin one where the card does."""
    if gpu.budget_bytes is None:
        return
    x = page.x(gpu.budget_bytes)
    yield Line(strokes=[[(x, y - _BAND - 4), (x, y + _HEIGHT + 4)]], width=3)
    if gpu.capacity_bytes is not None and gpu.capacity_bytes != gpu.budget_bytes:
        x = page.x(gpu.capacity_bytes)
        yield Line(strokes=[[(x, y - 4), (x, y + _HEIGHT + 4)]], dashed=True)


def _range(page: Page, gpu: GpuEstimate, y: float) -> Iterator[Shape]:
    low, high = page.x(gpu.low_device_bytes), page.x(gpu.high_device_bytes)
    if has_range(page, gpu):
        caps = [[(x, y - 4), (x, y + 4)] for x in (low, high)]
        yield Line(strokes=[[(low, y), (high, y)], *caps], width=1.5)


def sorted_parts(gpu: GpuEstimate) -> list[Component]:
    """The components that take something, in the palette's order."""
    parts = [part for part in gpu.peak.components if part.num_bytes > 0]
    return sorted(parts, key=lambda part: place(part.name))


def _named(part: Component) -> str:
    note = f" ({part.note})" if part.note else ""
    return f"{look(part.name).words}: {format_bytes(part.num_bytes)}{note}"


def _label(part: Component, room: float) -> str:
    """The longest label that fits into a segment."""
    words, amount = look(part.name).words, format_bytes(part.num_bytes)
    tries = (f"{words} {amount}", amount, words)
    return next((text for text in tries if text_width(text, 12) <= room), "")


def has_range(page: Page, gpu: GpuEstimate) -> bool:
    """Whether its range is wide enough to be drawn."""
    return page.x(gpu.high_device_bytes) - page.x(gpu.low_device_bytes) >= 2


def _ring(left: float, top: float, right: float, bottom: float) -> list[Point]:
    corners = boxed(left, top, right, bottom)
    return [*corners, corners[0]]
