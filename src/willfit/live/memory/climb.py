"""Climb: from objects upwards, referrer by referrer, to the places that hold them."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from willfit.live.memory.arrays import held_by
from willfit.live.memory.roots import Root, Roots

CHUNK: Final = 64
"""Objects whose referrers are asked for at once: some 0.15 s with a million objects."""
CROWD: Final = 8
"""Objects in one container that are taken for its own: more than a layer has parameters."""
MOST_OBJECTS: Final = 20_000
"""Objects above the first ones, at most."""
_NOWHERE: Final = Root(
    kind="hidden", name="", expression=None,
    place="something that Python's collector does not show (C++, an array, a running call)",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Path:
    """One way from a place down to an object; hold it no longer than needed."""

    root: Root
    objects: list[Any]
    """From what the place itself holds to the object that was looked for."""
    starts: Set[int]
    """Positions of all looked-for objects that hang on what the place holds."""
    width: int
    """In how many of its direct parts they are, where what the place holds is a container."""


@dataclass(kw_only=True)
class Climb:
    """A search upwards, with what it has seen; `paths` gives what it found."""

    starts: Sequence[Any]
    roots: Roots
    until: float
    """Moment of ``time.thread_time()`` at which to stop."""
    shy: Sequence[Any] = ()
    """Objects that do not tell the collector's search all that they hold."""
    ignored: set[int] = field(default_factory=set)
    """Identities of containers that belong to the search."""
    is_complete: bool = True
    """False once it stopped early."""

    def __post_init__(self) -> None:
        self._seen: dict[int, Any] = {id(one): one for one in self.starts}
        self._first: Set[int] = frozenset(self._seen)
        self._below: dict[int, list[int]] = {}
        self._found: dict[tuple[Root, int], None] = {}
        self._ends: list[int] = []
        self._position = {id(one): number for number, one in enumerate(self.starts)}
        self._open: list[Any] = list(self.starts[:CHUNK])
        self._pending = {id(one): one for one in self.starts[CHUNK:]}
        mine = (self.shy, self._seen, self._open, self._pending, self.starts, vars(self), self)
        self.ignored |= set(map(id, mine))

    def run(self) -> None:
        """Level by level, so that the first way that is found to a place is a shortest one."""
        for start in self.starts:
            self._direct(start)
        while self._open or self._pending:
            chunk = self._next_chunk()
            if time.thread_time() > self.until or len(self._seen) > MOST_OBJECTS:
                self.is_complete = False
                return
            self._level(chunk)

    def _next_chunk(self) -> list[Any]:
        """Of what was met; then of the objects looked for that hang on nothing known yet."""
        chunk = self._open[:CHUNK]
        del self._open[:CHUNK]
        for number in list(self._pending)[: 0 if chunk else CHUNK]:
            chunk.append(self._pending.pop(number))
        return chunk

    def paths(self) -> Iterator[Path]:
        """Ways from each place that was found."""
        for root, top in self._found:
            yield self._path(root, top)

    def dead_ends(self) -> Iterator[Path]:
        """Ways from objects that nothing visible refers to, though they are alive."""
        places = {top for _, top in self._found}
        for top in self._ends:
            if top not in places:
                yield self._path(_NOWHERE, top)

    def _path(self, root: Root, top: int) -> Path:
        return Path(
            root=root,
            objects=self._way(top),
            starts=self._reached(top),
            width=len(set(self._below.get(top, ()))),
        )

    def _level(self, chunk: list[Any]) -> None:
        wanted = {id(one): one for one in chunk}
        ours = self.ignored | {id(chunk), id(wanted)}
        held: set[int] = set()
        for referrer in (*gc.get_referrers(*chunk), *_holding(self.shy, wanted)):
            if id(referrer) in ours:
                continue
            held_here = held_by(referrer)
            below = [wanted[id(one)] for one in held_here if id(one) in wanted]
            below += self._crowd(held_here)
            held.update(map(id, below))
            self._meet(referrer, {id(one): one for one in below}.values())
        self._ends += [number for number in wanted if number not in held]

    def _meet(self, referrer: Any, below: Iterable[Any]) -> None:
        if issubclass(type(referrer), type):
            below = self._attributes(below)
        ends = [(one, self.roots.of(referrer, one)) for one in below]
        if any(found is not None for _, found in ends):
            for one, found in ends:
                self._found.update({(root, id(one)): None for root in found or ()})
            return
        number = id(referrer)
        self._below.setdefault(number, []).extend(id(one) for one, _ in ends)
        if number not in self._seen:
            self._seen[number] = referrer
            self._open.append(referrer)
            self._direct(referrer)

    def _crowd(self, held: Sequence[Any]) -> list[Any]:
        """Many that are still to be looked for, in one container: an optimizer's, a state dict's.

        They are not asked for again: each question to the collector goes over all objects.
        """
        met = {id(one): one for one in held if id(one) in self._pending}
        if len(met) < CROWD:
            return []
        for number in met:
            del self._pending[number]
        return list(met.values())

    def _attributes(self, below: Iterable[Any]) -> list[Any]:
        """What a class holds by the dictionary of its attributes, which nobody else can reach."""
        found: list[Any] = []
        for one in below:
            is_table = issubclass(type(one), dict)
            numbers = self._below.get(id(one), ()) if is_table else (id(one),)
            found += [self._seen[number] for number in numbers]
        return found

    def _direct(self, value: Any) -> None:
        self._found.update({(root, id(value)): None for root in self.roots.direct(value)})

    def _way(self, top: int) -> list[Any]:
        """Down by the first way that was found: its next object is always one met before."""
        way = [top]
        while way[-1] not in self._first:
            way.append(self._below[way[-1]][0])
        return [self._seen[number] for number in way]

    def _reached(self, top: int) -> Set[int]:
        seen, waiting = {top}, [top]
        while waiting:
            for number in self._below.get(waiting.pop(), ()):
                if number not in seen:
                    seen.add(number)
                    waiting.append(number)
        return {self._position[number] for number in seen if number in self._position}


def _holding(shy: Sequence[Any], wanted: Mapping[int, Any]) -> list[Any]:
    return [one for one in shy if any(id(held) in wanted for held in held_by(one))]
