"""Starts: the outermost Python objects that a set of storages hangs on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from willfit.live.memory.census import Census
from willfit.live.memory.graphs import held_by_graph, with_graph
from willfit.live.memory.storages import storage_of

MOST_STARTS: Final = 4096
"""Objects from which a search begins, those with the most bytes first."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """An object, and the wanted storages that live as long as it does."""

    value: Any
    keys: Set[int]
    by_graph: bool = False
    """Whether it is autograd behind a tensor that holds them."""


def starts_for(census: Census, wanted: Mapping[int, int], until: float) -> list[Start]:
    """Outermost modules, loose tensors, graphs, and parts that somebody else holds as well.

    ``wanted``: bytes by the key of each storage. A part of a module begins its own search only if
    it has more references than its module's own: somebody holds it directly.
    """
    tree = _Tree(census.modules)
    keyed = {id(tensor): key for tensor, key in _keyed(census, wanted)}
    parts = [one for one in census.tensors if id(one) in keyed]
    found = _merged(
        [*_modules(tree, parts, keyed), *_tensors(tree, parts, keyed)],
        _graphs(census, wanted, until),
    )
    found.sort(key=lambda start: -sum(wanted[key] for key in start.keys))
    return found[:MOST_STARTS]


def _merged(direct: list[Start], graphs: Iterator[Start]) -> list[Start]:
    """One start an object: a tensor may hold its own storage and, by its graph, others."""
    found = {id(start.value): start for start in direct}
    for start in graphs:
        known = found.get(id(start.value))
        keys = start.keys | known.keys if known else start.keys
        found[id(start.value)] = Start(value=start.value, keys=keys, by_graph=True)
    return list(found.values())


def _keyed(census: Census, wanted: Mapping[int, int]) -> Iterator[tuple[Any, int]]:
    for tensor in census.tensors:
        storage = storage_of(tensor)
        if storage is not None and storage.key in wanted:
            yield tensor, storage.key


class _Tree:
    """Who is part of which module, by identity: references would be counted as somebody's."""

    def __init__(self, modules: list[Any]) -> None:
        self.modules = modules
        self.times: Counter[int] = Counter()
        """How often an object stands in a module."""
        self._above: dict[int, list[int]] = {}
        for module in modules:
            for table in ("_parameters", "_buffers", "_modules"):
                for part in list(vars(module).get(table, {}).values()):
                    self.times[id(part)] += 1
                    self._above.setdefault(id(part), []).append(id(module))

    def above(self, part: int) -> Set[int]:
        """Every module that a tensor or module is part of, at any depth."""
        found: set[int] = set()
        waiting = [part]
        while waiting:
            for module in self._above.get(waiting.pop(), ()):
                if module not in found:
                    found.add(module)
                    waiting.append(module)
        return found


def _modules(tree: _Tree, parts: list[Any], keyed: Mapping[int, int]) -> Iterator[Start]:
    keys: dict[int, set[int]] = {}
    for part in parts:
        for number in tree.above(id(part)):
            keys.setdefault(number, set()).add(keyed[id(part)])
    for module in tree.modules:
        if id(module) not in keys:
            continue
        # counted: the census, this loop, the call's own, the module above
        alone = sys.getrefcount(module) <= 3 + tree.times[id(module)]
        if not tree.times[id(module)] or not alone:
            yield Start(value=module, keys=keys[id(module)])


def _tensors(tree: _Tree, parts: list[Any], keyed: Mapping[int, int]) -> Iterator[Start]:
    for part in parts:
        # counted: the census, the list of parts, this loop, the call's own, the module above
        alone = sys.getrefcount(part) <= 4 + tree.times[id(part)]
        if not tree.times[id(part)] or not alone:
            yield Start(value=part, keys=frozenset({keyed[id(part)]}))


def _graphs(census: Census, wanted: Mapping[int, int], until: float) -> Iterator[Start]:
    for tensor in with_graph(census.tensors):
        keys = held_by_graph(tensor, until).keys() & wanted.keys()
        if keys:
            yield Start(value=tensor, keys=frozenset(keys), by_graph=True)
