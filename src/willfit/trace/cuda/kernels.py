"""Functions and operators replaced for the duration, for every caller of them.

Unlike a function mode, both are there while backward recomputes; a registered kernel for callers in
C++ too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

Kernel = Callable[..., Any]


@contextmanager
def registered(key: str, rows: Mapping[str, Kernel]) -> Iterator[None]:
    """Kernels of ``aten`` operators at a dispatch key (``AutocastCPU``); the old ones come back.

    ``rows``: by the operator's name with its overload, ``softmax.int``.
    """
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a kernel is replaced is the purpose
            for name, kernel in rows.items():
                library.impl(name, kernel, key)
        yield
    finally:
        library._destroy()


def operator(name: str) -> Any:
    """The overload that a row names."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


@contextmanager
def replaced(rows: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes of modules and classes, (owner, name, value), for the duration."""
    kept = [(owner, name, vars(owner).get(name, _INHERITED)) for owner, name, _ in rows]
    try:
        for owner, name, value in rows:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in kept:
            if value is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


_INHERITED: Final = object()
