"""Caching a pure function by the identity of a large argument that cannot be hashed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


def by_identity(size: int) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Keep the last ``size`` results of a function of positional arguments.

    The first argument counts by identity and is kept alive with its result; the others must be
    hashable. Exceptions are not kept.
    """

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        kept: OrderedDict[tuple[Any, ...], tuple[Any, Result]] = OrderedDict()

        @wraps(function)
        def cached(*given: Given.args, **named: Given.kwargs) -> Result:
            key = (id(given[0]), *given[1:], *sorted(named.items()))
            if key in kept:
                kept.move_to_end(key)
                return kept[key][1]
            result = function(*given, **named)
            kept[key] = (given[0], result)
            if len(kept) > size:
                kept.popitem(last=False)
            return result

        return cached

    return decorate
