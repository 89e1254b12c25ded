"""Steps: how one object holds the next, in Python and in words."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    TracebackType,
)
from typing import Any, Final

from torch import nn

from willfit.live.memory.frames import function_of, locals_of, where_of

MAP: Final = "Executor.map.<locals>.result_iterator"
"""Qualified name of the generator that `concurrent.futures.Executor.map` returns."""
_MOST_KEY: Final = 40
"""Characters of a key that are shown."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """From an object to one that it holds."""

    over: int = 1
    """Objects of the way that it passes: 2 where a dictionary of attributes lies between."""
    access: str | None = None
    """What to write behind the holder's expression; None where Python has no way."""
    words: str = ""
    """``element 3``, ``local `model```; empty where nobody needs it."""


def step(way: Sequence[Any], place: int) -> Step:
    """The step at that place of a way, whose last object holds nothing more."""
    holder = way[place]
    for kinds, describe in _STEPS:
        if isinstance(holder, kinds):
            return describe(way, place)
    return _attribute(way, place)


def _always(found: Step) -> Callable[[Sequence[Any], int], Step]:
    return lambda _way, _place: found


def _key(way: Sequence[Any], place: int) -> Step:
    name = next((name for name, held in list(way[place].items()) if held is way[place + 1]), None)
    if name is None:
        return Step(words="a key")
    plain = isinstance(name, str | int | float | bool)
    text = repr(name)
    return Step(
        access=f"[{text}]" if plain else None,
        words=f"key {text[:_MOST_KEY]}" if plain else f"a key of type {type(name).__name__}",
    )


def _element(way: Sequence[Any], place: int) -> Step:
    for number, held in enumerate(way[place]):
        if held is way[place + 1]:
            return Step(access=f"[{number}]", words=f"element {number}")
    return Step()


def _module(way: Sequence[Any], place: int) -> Step:
    """Of a module: by the name of the part, whatever the table between."""
    table = _table(way, place)
    named = vars(way[place]).get(table)
    if table in ("_modules", "_parameters", "_buffers") and len(way) > place + 3:
        name = _key((named, way[place + 3]), 0).access or "[None]"
        text = name[2:-2]
        access = f".{text}" if text.isidentifier() else f".get_submodule({text!r})"
        return Step(over=3, access=access, words=f"part `{text}`")
    return _attribute(way, place)


def _table(way: Sequence[Any], place: int) -> str:
    """Name of the attribute by which a module holds the object two further on."""
    if len(way) <= place + 2 or way[place + 1] is not vars(way[place]):
        return ""
    found = _key((way[place + 1], way[place + 2]), 0).access
    return found[2:-2] if found else ""


def _function(way: Sequence[Any], place: int) -> Step:
    function, held = way[place], way[place + 1]
    if held is function.__closure__ and len(way) > place + 2:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=False):
            if cell is way[place + 2]:
                return Step(over=2, words=f"as `{name}`")
    if held is function.__defaults__ or held is function.__kwdefaults__:
        return Step()
    return _attribute(way, place)


def _frame(way: Sequence[Any], place: int) -> Step:
    frame = way[place]
    if way[place + 1] is frame.f_back:
        return Step()
    return Step(words=f"frame `{function_of(frame)}` of {where_of(frame)}{_local(way, place)}")


def _local(way: Sequence[Any], place: int, frame: FrameType | None = None) -> str:
    values = locals_of(frame or way[place])
    for name, value in values.items():
        if any(value is held for held in way[place + 1 : place + 3]) and name.isidentifier():
            return f", local `{name}`"
    return ""


def _suspended(way: Sequence[Any], place: int) -> Step:
    """A generator or coroutine: the frame is part of it."""
    one = way[place]
    frame = getattr(one, "gi_frame", None) or getattr(one, "cr_frame", None)
    frame = frame or getattr(one, "ag_frame", None)
    if frame is None or way[place + 1] is frame:
        return Step()
    if one.__qualname__ == MAP:
        return Step()
    return Step(words=_local(way, place, frame).removeprefix(", "))


def _exception(way: Sequence[Any], place: int) -> Step:
    error, held = way[place], way[place + 1]
    if held is error.__traceback__:
        return Step(access=".__traceback__")
    if held is error.__cause__ or held is error.__context__:
        return Step(words="the error that it came from")
    return _attribute(way, place) if held is not error.args else Step(words="its argument")


def _future(way: Sequence[Any], place: int) -> Step:
    found = _attribute(way, place)
    words = {"._result": "result of a task", "._exception": "exception of a task"}
    return Step(over=found.over, access=found.access, words=words.get(found.access or "", ""))


def _attribute(way: Sequence[Any], place: int) -> Step:
    """By the instance's dictionary, which may lie between, or by a slot."""
    holder, held = way[place], way[place + 1]
    variables = getattr(holder, "__dict__", None)
    over = 1
    if held is variables and len(way) > place + 2:
        over, held = 2, way[place + 2]
    names = list(variables.items()) if isinstance(variables, dict) else []
    for name, value in [*names, *_slots(holder)]:
        if value is held:
            return Step(over=over, access=f".{name}", words=f"attribute `{name}`")
    return Step(over=over)


def _slots(holder: Any) -> list[tuple[str, Any]]:
    found = []
    for kind in type(holder).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = kind.__dict__.get(name)
            if member is not None and hasattr(member, "__get__"):
                try:
                    found.append((name, member.__get__(holder)))
                except AttributeError:  # a slot that is empty
                    continue
    return found


_STEPS: Final[tuple[tuple[Any, Callable[[Sequence[Any], int], Step]], ...]] = (
    (nn.Module, _module),
    (dict, _key),
    ((list, tuple, deque), _element),
    ((set, frozenset), _always(Step(words="an element"))),
    (FunctionType, _function),
    (FrameType, _frame),
    ((GeneratorType, CoroutineType, AsyncGeneratorType), _suspended),
    ((TracebackType, CellType), _always(Step())),
    (functools.partial, _always(Step(words="bound argument"))),
    ((MethodType, BuiltinMethodType), _always(Step(access=".__self__"))),
    (Future, _future),
    (BaseException, _exception),
)  # fmt: skip
