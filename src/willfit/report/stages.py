"""Memory over the stages of a run as a picture: a panel for each GPU, a block for each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.report.drawing import Area, Drawing, Line, Shape, Words
from willfit.report.palette import ink_on, look
from willfit.report.parts import Key, boxed, hatched, heading, legend, side_scale
from willfit.report.peak import WIDE
from willfit.report.writing import fitted, text_width
from willfit.units import format_bytes

HEIGHT: Final = 150
_MARGIN: Final = 14
_LEFT: Final = 84
_PEAK, _REST = look("weights").color, look("fragmentation").color


@dataclass(frozen=True, kw_only=True)
class Block:
    """A GPU over one stage."""

    name: str
    before_bytes: int = 0
    peak_bytes: int
    """0 where nothing was measured: then the estimate stands alone."""
    after_bytes: int = 0
    estimated_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A GPU over a whole run."""

    name: str
    blocks: Sequence[Block]
    capacity_bytes: int | None = None


def stages_drawing(
    lanes: Sequence[Lane], title: str, *, width: int = WIDE, titled: bool = True
) -> Drawing:
    """What each stage took and left, beside what was estimated for it."""
    shapes, y = heading(title if titled else "", width - 2 * _MARGIN, _MARGIN)
    for lane in lanes:
        panel = _Panel(lane=lane, top=y + 34, width=width)
        shapes += panel.shapes()
        y = panel.bottom + 24
    keys, y = legend(list(_keys(lanes)), width, _MARGIN, y)
    return Drawing(
        width=width,
        height=round(y + _MARGIN),
        title=title,
        description=" ".join(map(_sentence, lanes)),
        shapes=[*shapes, *keys],
    )


@dataclass(frozen=True, kw_only=True)
class _Panel:
    lane: Lane
    top: float
    width: int

    @property
    def bottom(self) -> float:
        return self.top + HEIGHT

    @property
    def most_bytes(self) -> float:
        ends = [self.lane.capacity_bytes or 0]
        for block in self.lane.blocks:
            ends += [block.peak_bytes, block.before_bytes, block.after_bytes]
            ends.append(block.estimated_bytes or 0)
        return (max(ends) or 1) * 1.05

    def y(self, num_bytes: float) -> float:
        return self.bottom - HEIGHT * num_bytes / self.most_bytes

    def x(self, place: float) -> float:
        """Where a stage begins; its block leaves a sixth of its slot free on each side."""
        room = self.width - _LEFT - _MARGIN
        return _LEFT + room * place / max(len(self.lane.blocks), 1)

    def shapes(self) -> Iterator[Shape]:
        yield Words(at=(_MARGIN, self.top - 12), text=self._name(), bold=True)
        ends = (_LEFT, self.width - _MARGIN)
        yield from side_scale(self.most_bytes, 4, ends, self.y)
        for place, block in enumerate(self.lane.blocks):
            yield from self._block(place, block)
        if self.lane.capacity_bytes is not None:
            y = self.y(self.lane.capacity_bytes)
            yield Line(strokes=[[(_LEFT, y), (self.width - _MARGIN, y)]], width=3)

    def _name(self) -> str:
        return fitted(self.lane.name, self.width - 2 * _MARGIN, 12, bold=True)

    def _block(self, place: int, block: Block) -> Iterator[Shape]:
        left, right = self.x(place + 1 / 6), self.x(place + 5 / 6)
        before = min(block.before_bytes, block.peak_bytes)
        said = f"{block.name}: {format_bytes(block.peak_bytes)}"
        yield from self._area(self.x(place), left, (0, block.before_bytes), _REST)
        yield from self._area(right, self.x(place + 1), (0, block.after_bytes), _REST)
        yield from self._area(left, right, (0, before), _REST)
        yield from self._area(left, right, (before, block.peak_bytes), _PEAK, said)
        capacity = self.lane.capacity_bytes
        if capacity is not None and block.peak_bytes > capacity:
            box = (left, self.y(block.peak_bytes), right, self.y(capacity))
            yield Line(strokes=list(hatched(*box)))
        if block.estimated_bytes:
            y = self.y(block.estimated_bytes)
            yield Line(strokes=[[(left - 4, y), (right + 4, y)]], width=2, dashed=True)
        yield from self._words(left, right, self.x(place + 1) - self.x(place) - 6, block)

    def _area(
        self, left: float, right: float, amounts: tuple[int, int], color: str, name: str = ""
    ) -> Iterator[Shape]:
        """A box from one amount up to another; nothing where they are the same."""
        low, high = amounts
        if high > low:
            yield Area(points=boxed(left, self.y(high), right, self.y(low)), color=color, name=name)

    def _words(self, left: float, right: float, room: float, block: Block) -> Iterator[Shape]:
        middle = (left + right) / 2
        name = fitted(block.name, room, 12)
        yield Words(at=(middle, self.bottom + 17), text=name, anchor="middle")
        amount = format_bytes(block.peak_bytes)
        top, base = self.y(block.peak_bytes), self.y(min(block.before_bytes, block.peak_bytes))
        if base - top > 20 and text_width(amount, 12) < right - left - 4:
            at = (middle, self._free(base - 8, top + 16, block))
            yield Words(at=at, text=amount, anchor="middle", color=ink_on(_PEAK))

    def _free(self, low: float, high: float, block: Block) -> float:
        """Where the line of the estimate does not cross the words: low down, else high up."""
        line = self.y(block.estimated_bytes or -self.most_bytes)
        return high if low - 14 < line < low + 4 else low


def _keys(lanes: Sequence[Lane]) -> Iterator[Key]:
    blocks = [block for lane in lanes for block in lane.blocks]
    if any(block.peak_bytes for block in blocks):
        yield _PEAK, "most in use in the stage"
    if any(block.before_bytes or block.after_bytes for block in blocks):
        yield _REST, "in use before and after"
    if any(block.estimated_bytes for block in blocks):
        yield "dashes", "estimated"
    if any(lane.capacity_bytes is not None for lane in lanes):
        yield "line", "usable at most"
    if any(
        block.peak_bytes > lane.capacity_bytes
        for lane in lanes
        if lane.capacity_bytes is not None
        for block in lane.blocks
    ):
        yield "hatch", "too much"


def _sentence(lane: Lane) -> str:
    said = "; ".join(
        f"{block.name} {format_bytes(block.before_bytes)} before, "
        f"{format_bytes(block.peak_bytes)} at most, {format_bytes(block.after_bytes)} after"
        + (f", estimated {format_bytes(block.estimated_bytes)}" if block.estimated_bytes else "")
        for block in lane.blocks
    )
    return f"{lane.name}: {said}."
