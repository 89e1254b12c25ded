"""Holders: who keeps a set of storages alive, each named so that a person finds it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from willfit.live.memory.arrays import user_arrays
from willfit.live.memory.census import take_census
from willfit.live.memory.climb import Climb, Path
from willfit.live.memory.cutting import NO_LINE
from willfit.live.memory.looking import looking
from willfit.live.memory.naming import Named, name
from willfit.live.memory.roots import Roots
from willfit.live.memory.starts import starts_for
from willfit.live.memory.storages import Storage
from willfit.units import format_bytes

TIME_LIMIT: Final = 1.5
"""Seconds of the processor for a search, of which autograd's graphs take a third at most."""
LOOKS: Final = 20
"""As many looks at all objects, a census each, as a search may take where they take longer.

A heap of many millions of objects, or a machine whose memory is busy: a climb of a few levels is a
few such looks, and the collections of garbage that come before it have taken as long.
"""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Somebody who keeps memory from being given back."""

    kind: str
    """``variable``, ``executor.map``, ``exception``, ``lru_cache``, ``process``…"""
    path: str
    """Where it is, in words: ``variable `model_0` in the notebook``."""
    num_bytes: int
    """What hangs on it; several holders may keep the same bytes."""
    line: str
    """The line of code that lets go; a comment where no line of code can."""
    devices: tuple[str, ...] = ()

    def text(self) -> str:
        """One line."""
        return f"{format_bytes(self.num_bytes):>10}  {self.path}\n{'':12}free it with: {self.line}"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found."""

    holders: tuple[Holder, ...] = ()
    is_complete: bool = True
    """False where it ran out of time or of room: there may be more."""
    seconds: float = 0.0


Act = Callable[[Named, Any], bool]
"""Told of each special holder in words, and of its object; whether it was made to let go."""


def find_holders(
    storages: Iterable[Storage], *, time_limit: float | None = None, act: Act | None = None
) -> Search:
    """Who keeps these storages, those with the most bytes first.

    ``time_limit``: seconds of the processor; by default `TIME_LIMIT`, or `LOOKS` if that is more.
    ``act`` is told of every special holder (a generator, a cache, a future…) and may make it let
    go. Nothing of what is found is kept: the result is words and numbers.
    """
    began, spent = time.monotonic(), time.thread_time()
    wanted = {one.key: one for one in storages if one.is_alive()}
    if not wanted:
        return Search()
    sizes = {key: one.num_bytes for key, one in wanted.items()}
    with looking():
        census = take_census()
        if time_limit is None:
            time_limit = max(TIME_LIMIT, LOOKS * (time.thread_time() - spent))
        starts = starts_for(census, sizes, spent + time_limit / 3)
    shy = [*census.futures, *user_arrays()]
    del census
    values = [start.value for start in starts]
    keys = [start.keys for start in starts]
    graphs = [start.by_graph for start in starts]
    del starts
    climb = Climb(starts=values, roots=Roots(), shy=shy, until=spent + time_limit)
    climb.run()
    found: list[tuple[Holder, Set[int]]] = []
    reached: set[int] = set()
    for path in (*_told(list(climb.paths())), *climb.dead_ends()):
        held = frozenset().union(*(keys[number] for number in path.starts))
        if path.root.kind == "hidden" and held <= reached:
            continue  # autograd's, or a library's, of which the place is known
        reached |= held
        named = name(path, by_graph=graphs[_end(path, values)])
        if act is None or named.special is None or not act(named, named.special):
            found.append((_holder(named), held))
        del path, named
    rest = _HIDDEN_HOLDER if climb.is_complete else _NOT_FOUND
    found.append((rest, wanted.keys() - reached))
    return Search(
        holders=tuple(_summed(found, wanted)),
        is_complete=climb.is_complete,
        seconds=time.monotonic() - began,
    )


def _holder(named: Named) -> Holder:
    return Holder(kind=named.kind, path=named.path, num_bytes=0, line=named.line)


_HIDDEN_HOLDER: Final = Holder(
    kind="hidden", path="something that Python's collector does not show (C++ or an array)",
    num_bytes=0, line=NO_LINE,
)  # fmt: skip


_NOT_FOUND: Final = replace(
    _HIDDEN_HOLDER, path="a place that was not found in time", line="# look again once more is free"
)


def _end(path: Path, values: Sequence[Any]) -> int:
    """Which of the starts the way leads to."""
    return next(number for number in path.starts if values[number] is path.objects[-1])


def _told(paths: list[Path]) -> list[Path]:
    """Without ways through a library that share an object with a way from the user's own places.

    A queue of an executor, for one, hangs on the executor and on a table of its module: the first
    is what can be let go of.
    """
    ours = {id(one) for path in paths if not path.root.is_library for one in path.objects[:-1]}
    return [
        path
        for path in paths
        if not path.root.is_library or not any(id(one) in ours for one in path.objects[:-1])
    ]


def _summed(
    found: Sequence[tuple[Holder, Set[int]]], wanted: dict[int, Storage]
) -> Iterable[Holder]:
    """One holder a place: ways that are cut by the same line are one."""
    merged: dict[tuple[str, str], tuple[Holder, Set[int]]] = {}
    for holder, held in found:
        place = (holder.kind, holder.line)
        first, known = merged.get(place, (holder, frozenset()))
        merged[place] = (first, held | known)
    filled = [
        replace(
            holder,
            num_bytes=sum(wanted[key].num_bytes for key in held),
            devices=tuple(sorted({wanted[key].device for key in held})),
        )
        for holder, held in merged.values()
        if held
    ]
    return sorted(filled, key=lambda holder: -holder.num_bytes)
