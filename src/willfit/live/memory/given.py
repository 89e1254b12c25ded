"""Given: every tensor that hangs on the objects that a user hands over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

import torch

MOST_OBJECTS: Final = 300_000
"""Objects that are looked at: a trainer with its data set has many that hold no tensor."""
_PLAIN: Final = (str, bytes, int, float, bool, complex, type(None))
_CLOSED: Final = (type, ModuleType, FunctionType, MethodType, *_PLAIN)


def tensors_in(objects: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors of modules, optimizers, trainers, pipelines, caches and containers of them.

    Attributes and elements are followed, code and generators are not: what a function encloses is
    its own.
    """
    waiting = deque(objects)
    seen: set[int] = set()
    kept = []  # an identity is only good as long as its object lives
    while waiting and len(seen) < MOST_OBJECTS:
        one = waiting.popleft()
        if id(one) in seen or issubclass(type(one), _CLOSED):
            continue
        seen.add(id(one))
        kept.append(one)
        if issubclass(type(one), torch.Tensor):
            yield one
            yield from _gradient(one)
        waiting.extend(_parts(one))


def _gradient(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if tensor.is_leaf and tensor.grad is not None:
        yield tensor.grad


def _parts(one: Any) -> list[Any]:
    if isinstance(one, dict):
        return _mixed([*one.keys(), *one.values()])
    if isinstance(one, list | tuple | set | frozenset | deque):
        return _mixed(list(one))
    variables = getattr(one, "__dict__", None)
    return _mixed(list(variables.values())) if isinstance(variables, dict) else []


def _mixed(parts: list[Any]) -> list[Any]:
    """Nothing where all are numbers and texts, such as the token ids of a data set."""
    kinds = set(map(type, parts))
    return [] if kinds <= set(_PLAIN) else parts
