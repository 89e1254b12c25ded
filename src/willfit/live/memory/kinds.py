"""Kinds: classes of libraries that may not be installed, known by name."""

from __future__ import annotations

from typing import Any


def is_below(one: Any, module: str, name: str) -> bool:
    """Whether an object is of a class of that name and library, or of one derived from it."""
    return any(
        kind.__name__ == name and kind.__module__.startswith(module) for kind in type(one).__mro__
    )
