"""Graphs: what autograd holds in C++, where no referrer of Python's collector leads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from willfit.live.memory.storages import Storage, storage_of

MOST_NODES: Final = 50_000
"""Nodes of all graphs that are looked at; a step of a 32-layer model has some 3,000."""


def held_by_graph(tensor: Any, until: float, most: int = MOST_NODES) -> dict[int, Storage]:
    """Storages that the graph behind a tensor saves for the backward pass, and its leaves.

    ``until``: the moment of ``time.thread_time()`` at which to stop.
    """
    found: dict[int, Storage] = {}
    for node in _nodes(tensor.grad_fn, until, most):
        for saved in _saved(node):
            storage = storage_of(saved)
            if storage is not None:
                found.setdefault(storage.key, storage)
    return found


def with_graph(tensors: Sequence[Any]) -> list[Any]:
    """Those of the tensors that a graph stands behind."""
    return [tensor for tensor in tensors if _grad_fn(tensor) is not None]


def _grad_fn(tensor: Any) -> Any:
    try:
        return tensor.grad_fn
    except RuntimeError:  # a view that was changed in place in a way that autograd refuses
        return None


def _nodes(root: Any, until: float, most: int) -> Iterator[Any]:
    seen = {root}  # nodes of autograd are made anew in Python at each look, and compare by identity
    open_nodes = [root]
    while open_nodes and len(seen) <= most and time.thread_time() < until:
        node = open_nodes.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                open_nodes.append(following)


def _saved(node: Any) -> Iterator[Any]:
    """Tensors of one node: by the names that torch gives them, of its own or a Python function."""
    names = [name for name in dir(type(node)) if name.startswith("_saved_")]
    for name in [*names, "variable", "saved_tensors"]:
        try:
            value = getattr(node, name, None)
        except (RuntimeError, ValueError):  # freed by a backward pass, or changed in place since
            continue
        values = value if isinstance(value, list | tuple) else (value,)
        yield from (one for one in values if hasattr(one, "untyped_storage"))
