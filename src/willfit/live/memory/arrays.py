"""Arrays: numpy's, which the collector does not follow, among what the user's variables hold."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any, Final

from willfit.live.memory.notebook import user_variables

MOST_OBJECTS: Final = 50_000
"""Objects below the user's variables that are looked at."""
MOST_ELEMENTS: Final = 100_000
"""Elements of an array of objects that are looked at."""
_CLOSED: Final = (type, ModuleType, FunctionType, str, bytes, int, float, bool, type(None))


def user_arrays() -> list[Any]:
    """Arrays that hang on variables of the notebook, of scripts and of modules that are no library.

    An array that shares a tensor's memory keeps the tensor, and one of objects keeps each of them.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return []
    found = []
    seen: set[int] = set()
    waiting = [value for space in _spaces() for value in list(space.values())]
    while waiting and len(seen) < MOST_OBJECTS:
        one = waiting.pop()
        if id(one) in seen or issubclass(type(one), _CLOSED):
            continue
        seen.add(id(one))
        if issubclass(type(one), numpy.ndarray):
            found.append(one)
        else:
            waiting.extend(gc.get_referents(one))
    return found


def _spaces() -> Iterator[Mapping[str, Any]]:
    from willfit.live.memory.roots import is_library_module

    yield user_variables()
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and not is_library_module(name):
            yield vars(module)


def held_by(one: Any) -> list[Any]:
    """What an object refers to: as the collector has it, or the base and elements of an array."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not issubclass(type(one), numpy.ndarray):
        return gc.get_referents(one)
    held = [one.base]
    while isinstance(held[-1], numpy.ndarray):
        held.append(held[-1].base)
    if one.dtype == object and one.size <= MOST_ELEMENTS:
        held += list(one.flat)
    return held
