"""Census: the tensors and modules that Python's collector knows, found in one pass."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch


class _Kinds(dict[type, str]):
    """What objects of a type are: ``tensor``, ``module``, ``future`` or nothing; asked once a type.

    The type is looked at, never the object: ``isinstance`` would run the code of lazy proxies.
    """

    def __missing__(self, kind: type) -> str:
        ancestors = type.mro(kind) if type(kind) is type else getattr(kind, "__mro__", ())
        found = self[kind] = next((name for one, name in _wanted() if one in ancestors), "")
        return found


def _wanted() -> list[tuple[type, str]]:
    asyncio = sys.modules.get("asyncio")
    futures = [(asyncio.Future, "future")] if asyncio else []
    return [(torch.Tensor, "tensor"), (torch.nn.Module, "module"), *futures]


@dataclass(frozen=True)
class Census:
    """What was alive; hold it no longer than needed, since it holds what it lists."""

    tensors: list[Any]
    modules: list[Any]
    futures: list[Any]
    """asyncio's, written in C: to the collector's search they do not tell their results."""


def take_census() -> Census:
    """One pass over all objects: some 0.1 s for a million."""
    everything = gc.get_objects()
    kinds = _Kinds()
    found = list(compress(everything, map(kinds.__getitem__, map(type, everything))))
    del everything
    lists: dict[str, list[Any]] = {"tensor": [], "module": [], "future": []}
    for one in found:
        lists[kinds[type(one)]].append(one)
    tensors = lists["tensor"]
    tensors += list(_gradients(tensors))
    return Census(tensors=tensors, modules=lists["module"], futures=lists["future"])


def _gradients(tensors: list[Any]) -> Iterator[Any]:
    """Gradients of leaves: until somebody asks for one, C++ alone knows it."""
    known = {id(tensor) for tensor in tensors}
    for tensor in tensors:
        try:
            with torch._C.DisableTorchFunctionSubclass():
                gradient = tensor.grad if tensor.is_leaf else None
        except (RuntimeError, NotImplementedError, AttributeError, TypeError):
            continue
        if gradient is not None and id(gradient) not in known:
            yield gradient
