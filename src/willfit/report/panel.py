"""One GPU's memory over a traced run: areas by component, under lines of the allocator's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from willfit.report.drawing import Area, Line, Point, Shape, Words
from willfit.report.palette import look, place
from willfit.report.parts import side_scale
from willfit.report.writing import fitted
from willfit.results import Moment, Timeline
from willfit.units import format_bytes

HEIGHT: Final = 260
"""Of one GPU's areas."""
MARGIN: Final = 14
_LEFT: Final = 84
"""Room for the amounts of the scale."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a GPU has besides what a trace sees."""

    outside_bytes: int = 0
    """Device memory beside the allocator's: the CUDA context."""
    budget_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One GPU's run."""

    timeline: Timeline
    name: str
    card: Card
    top: float
    width: int

    @property
    def moments(self) -> Sequence[Moment]:
        """What is drawn."""
        return self.timeline.moments

    @property
    def bottom(self) -> float:
        """Where the areas stand."""
        return self.top + HEIGHT

    @property
    def fullest_bytes(self) -> int:
        """The most of the device that was in use."""
        most = max((moment.reserved_bytes for moment in self.moments), default=0)
        return most + self.card.outside_bytes or 1

    @property
    def limit_bytes(self) -> int | None:
        """The budget, where it is so near that its line is drawn."""
        budget = self.card.budget_bytes
        return None if budget is None or budget > 2.5 * self.fullest_bytes else budget

    @property
    def most_bytes(self) -> float:
        """The scale's end."""
        return max(self.fullest_bytes, self.limit_bytes or 0) * 1.05

    def x(self, index: int) -> float:
        """Where a moment is."""
        return _LEFT + (self.width - _LEFT - MARGIN) * index / max(len(self.moments) - 1, 1)

    def y(self, num_bytes: float) -> float:
        """Where an amount is."""
        return self.bottom - HEIGHT * num_bytes / self.most_bytes

    def shapes(self) -> Iterator[Shape]:
        """The scale, the areas, reserved and device, the limit, the phases."""
        ends = (_LEFT, self.width - MARGIN)
        yield from side_scale(self.most_bytes, 6, ends, self.y)
        yield from self._areas()
        amounts = [moment.reserved_bytes for moment in self.moments]
        reserved = self._edge(amounts)
        if self.card.outside_bytes:
            device = self._edge([amount + self.card.outside_bytes for amount in amounts])
            context = look("cuda_context")
            band = [*device, *reversed(reserved)]
            yield Area(points=band, color=context.color, name=context.words)
        yield Line(strokes=[reserved], width=1.5, dashed=True)
        if self.limit_bytes is not None:
            y = self.y(self.limit_bytes)
            yield Line(strokes=[[(_LEFT, y), (self.width - MARGIN, y)]], width=3)
        yield Words(at=(MARGIN, self.top - 10), text=self.name, bold=True)
        yield from self._phases()

    def sentence(self) -> str:
        """The fullest moment of each phase, in words."""
        most: dict[str, int] = {}
        for moment in self.moments:
            most[moment.phase] = max(most.get(moment.phase, 0), moment.reserved_bytes)
        said = ", ".join(f"{format_bytes(amount)} in {phase}" for phase, amount in most.items())
        return f"{self.name or 'The GPU'}: reserved at most {said or 'nothing'}."

    def _areas(self) -> Iterator[Shape]:
        base = [0] * len(self.moments)
        for part in parts_of([self.timeline]):
            upper = [b + m.components.get(part, 0) for b, m in zip(base, self.moments, strict=True)]
            edge = [*self._edge(upper), *reversed(self._edge(base))]
            yield Area(points=edge, color=look(part).color, name=look(part).words)
            base = upper

    def _edge(self, amounts: Sequence[int]) -> list[Point]:
        """Amounts over the moments as a line, without the points within a level stretch."""
        last = len(amounts) - 1
        return [
            (self.x(i), self.y(amount))
            for i, amount in enumerate(amounts)
            if i in (0, last) or not amounts[i - 1] == amount == amounts[i + 1]
        ]

    def _phases(self) -> Iterator[Shape]:
        """A line where a phase begins, and its name where it lasts long enough to be read."""
        phases = [moment.phase for moment in self.moments]
        starts = [i for i in range(len(phases)) if i == 0 or phases[i] != phases[i - 1]]
        lines = [[(self.x(i), self.top), (self.x(i), self.bottom + 5)] for i in starts]
        yield Line(strokes=lines, faint=True)
        for start, end in pairwise([*starts, max(len(phases) - 1, 0)]):
            room = self.x(end) - self.x(start) - 4
            name = fitted(phases[start], room, 12)
            if len(name) > 2 or name == phases[start]:
                yield Words(at=(self.x(start), self.bottom + 17), text=name)


def parts_of(timelines: Sequence[Timeline]) -> list[str]:
    """Components that take something at some moment, in the palette's order."""
    names = {
        name
        for timeline in timelines
        for moment in timeline.moments
        for name, amount in moment.components.items()
        if amount
    }
    return sorted(names, key=lambda name: (place(name), name))
