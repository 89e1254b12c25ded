"""A long model from a short one: the events of equal layers, once for each layer.

A model of four repeating units is traced: first, two in the middle, last. Wherever the two middle
units follow each other in the stream (forward, backward, every list of an optimizer), their events
are the same but for the layer they name; the units that were left out go between them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from willfit.trace.recording import EMPTY_CACHE, Event, Handle, Layer, Recording


class NotRepeating(Exception):  # noqa: N818 -- an answer, not a fault of the user
    """The middle units of a trace differ, so that none can stand for those left out."""


@dataclass(frozen=True, kw_only=True)
class Shortened:
    """How a stack of layers was shortened for the trace."""

    stack: str
    """Module path of the stack: ``model.layers``."""
    head: int
    """Layers at the start that repeat nothing (DeepSeek's dense ones)."""
    unit: int
    """Layers that repeat together: Gemma-3's five sliding and one full."""
    left_out: int
    """Units that the traced model lacks."""

    def unit_of(self, layer: int) -> int | None:
        """0 and on; None in the head."""
        return (layer - self.head) // self.unit if layer >= self.head else None

    @property
    def traced_layers(self) -> int:
        """Layers of the traced model without a remainder at its end."""
        return self.head + UNITS * self.unit


UNITS = 4
"""Units that are traced: a first, two that must be equal, and a last."""
_FIRST, _SECOND = 1, 2


class Copy(NamedTuple):
    """Handle of a storage of a unit that was not traced."""

    original: Handle
    unit: int
    kind: str = "copied unit"  # tuples of equal numbers are equal, whatever their class


def repeated(recording: Recording, shortened: Shortened) -> Recording:
    """The recording of the whole model. Raises `NotRepeating` where the middle units differ."""
    expansion = _Expansion(recording, shortened)
    events = list(expansion.events())
    categories = dict(recording.categories)
    for copy, original in expansion.copies.items():
        if original in recording.categories:
            categories[copy] = recording.categories[original]
    return recording.with_events(events, categories)


class _Home(NamedTuple):
    """Where a storage was allocated: equal homes in equal units correspond."""

    unit: int | None
    visit: int
    """How often its unit had run."""
    number: int
    """Event of that run."""


class _Line(NamedTuple):
    """An event of the unit that stands for those left out."""

    event: Event
    home: _Home | None
    second: Handle | None
    """What the second middle unit has in its place."""


class _Run(NamedTuple):
    """Consecutive events of one unit (those of no unit belong to the run before them)."""

    unit: int | None
    start: int
    end: int


class _Expansion:
    def __init__(self, recording: Recording, shortened: Shortened) -> None:
        self._all = recording.events
        self._short = shortened
        self.copies: dict[Copy, Handle] = {}
        """Original by copy."""
        self._home: dict[Handle, _Home] = {EMPTY_CACHE: _Home(None, 0, 0)}
        self._by_home: dict[_Home, Handle] = {}
        self._moved: dict[tuple[Layer, int], Layer] = {}

    def events(self) -> Iterator[Event]:
        runs = self._runs()
        self._name(runs)
        pairs = self._pairs(runs)
        for number, run in enumerate(runs):
            shift = self._short.left_out if run.unit is not None and run.unit >= _SECOND else 0
            yield from self._shifted(run, shift)
            if number in pairs:
                yield from self._between(run, runs[number + 1])

    def _unit(self, layer: Layer | None) -> int | None:
        if layer is None or layer.stack != self._short.stack:
            return None
        return self._short.unit_of(layer.number)

    def _runs(self) -> list[_Run]:
        """Cut the stream where the unit at work changes."""
        runs: list[_Run] = []
        current: int | None = None
        start = 0
        for position, event in enumerate(self._all):
            unit = self._unit(event.layer)
            if unit is not None and unit != current:
                runs.append(_Run(current, start, position))
                current, start = unit, position
        runs.append(_Run(current, start, len(self._all)))
        return runs

    def _name(self, runs: Sequence[_Run]) -> None:
        """Name storages by where they were allocated: how often their unit has run, and when."""
        visits: dict[int | None, int] = {}
        for run in runs:
            visit = visits[run.unit] = visits.get(run.unit, 0) + 1
            middle = run.unit in (_FIRST, _SECOND)
            for number, event in enumerate(self._all[run.start : run.end]):
                if event.num_bytes:
                    unit = run.unit if middle else self._unit(event.layer)
                    home = _Home(unit, visit, number)
                    self._home[event.handle] = home
                    self._by_home[home] = event.handle

    def _pairs(self, runs: Sequence[_Run]) -> set[int]:
        """Numbers of middle runs that the other one follows, each pair checked to be the same."""
        found = {
            number
            for number, (run, following) in enumerate(pairwise(runs))
            if {run.unit, following.unit} == {_FIRST, _SECOND}
        }
        if sum(run.unit in (_FIRST, _SECOND) for run in runs) != 2 * len(found):
            raise NotRepeating(f"the middle layers of {self._short.stack} do not take turns")
        for number in found:
            self._check(runs[number], runs[number + 1])
        return found

    def _check(self, run: _Run, following: _Run) -> None:
        mine, other = (
            [self._relative(event, each) for event in self._all[each.start : each.end]]
            for each in (run, following)
        )
        if mine != other:
            raise NotRepeating(
                f"units {run.unit} and {following.unit} of {self._short.stack} differ "
                f"({len(mine)} and {len(other)} events)"
            )

    def _relative(self, event: Event, run: _Run) -> tuple[Hashable, ...]:
        """An event without the number of its unit."""
        home = self._home[event.handle]
        if home.unit is None or run.unit is None:
            return (event.num_bytes, event.phase, event.place.op, None, event.handle)
        distance = home.unit - run.unit
        if abs(distance) > 1:
            raise NotRepeating(f"{self._short.stack}: a layer frees what is {distance} layers off")
        name = home[1:] if distance == 0 else None
        return (event.num_bytes, event.phase, event.place.op, distance, name)

    def _between(self, run: _Run, following: _Run) -> Iterator[Event]:
        """The units left out, in the order in which the stream goes through the layers."""
        template = [_Line(event, home, self._second(home)) for event, home in
                    self._template(run, following)]  # fmt: skip
        units = range(_SECOND, _SECOND + self._short.left_out)
        for unit in units if run.unit == _FIRST else reversed(units):
            distance = unit - _FIRST
            for event, home, original in template:
                handle, layer = event.handle, event.layer
                if home is not None and home.unit is not None:
                    handle = self._handle(home, home.unit + distance, original)
                if layer is not None:
                    layer = self._layer(layer, distance)
                yield Event(handle, event.num_bytes, event.phase, event.place, layer, event.gpu)

    def _template(self, run: _Run, following: _Run) -> Iterator[tuple[Event, _Home | None]]:
        """Events of the first middle unit, and where their storages were allocated.

        What a unit takes over from its neighbour is named by the run in which that neighbour is a
        middle unit too: the first and the last have events of their own.
        """
        first, second = sorted((run, following), key=lambda each: each.unit or 0)
        for mine, other in zip(
            self._all[first.start : first.end], self._all[second.start : second.end], strict=True
        ):
            home, theirs = self._home[mine.handle], self._home[other.handle]
            if theirs.unit == _FIRST:  # in the second unit's run, of its neighbour before
                yield mine, theirs._replace(unit=_FIRST - 1)
            else:
                yield mine, home

    def _shifted(self, run: _Run, shift: int) -> Iterator[Event]:
        """A traced run's events as those of the whole model."""
        for event in self._all[run.start : run.end]:
            home = self._home[event.handle]
            handle, layer = event.handle, event.layer
            if run.unit is not None and home.unit is not None:
                if abs(home.unit - run.unit) <= 1:
                    handle = self._handle(home, home.unit + shift, self._second(home))
                elif home.unit in (_FIRST, _SECOND):
                    raise NotRepeating(f"{self._short.stack}: layers outlive their neighbours")
            if shift and layer is not None:
                layer = self._layer(layer, shift)
            yield Event(handle, event.num_bytes, event.phase, event.place, layer, event.gpu)

    def _second(self, home: _Home | None) -> Handle | None:
        """The storage that the second middle unit has where a unit has this one."""
        if home is None or home.unit is None:
            return None
        return self._by_home.get(_Home(_SECOND, home.visit, home.number))

    def _handle(self, home: _Home, unit: int, original: Handle | None) -> Handle:
        """The storage of a unit of the whole model; ``original`` is the second unit's."""
        left_out = self._short.left_out
        if unit < _SECOND:
            return self._by_home[_Home(unit, home.visit, home.number)]
        if unit >= _SECOND + left_out:
            return self._by_home[_Home(unit - left_out, home.visit, home.number)]
        if original is None:
            raise NotRepeating(f"{self._short.stack}: a storage has no like in the next layer")
        copy = Copy(original, unit)
        self.copies[copy] = original
        return copy

    def _layer(self, layer: Layer, units: int) -> Layer:
        found = self._moved.get((layer, units))
        if found is None:
            mine = self._unit(layer) is not None
            number = layer.number + units * self._short.unit if mine else layer.number
            found = self._moved[layer, units] = Layer(layer.stack, number)
        return found
