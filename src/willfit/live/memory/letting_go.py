"""Letting go: what is done, if asked for, to holders that are nobody's own variable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final


def _close(generator: Any) -> bool:
    generator.close()
    return True


def _forget_result(future: Any) -> bool:
    """Its result or error is gone; asking for it gives None."""
    if not isinstance(future, Future) or not future.done():
        return False  # asyncio's are written in C and keep theirs
    future._result = None
    future._exception = None
    return True


def _clear_cache(function: Any) -> bool:
    function.cache_clear()
    return True


def _drop_traceback(error: Any) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    return True


def _cancel(executor: Any) -> bool:
    executor.shutdown(wait=False, cancel_futures=True)
    return True


LETS_GO: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "executor.map": ("generators", _close),
    "generator": ("generators", _close),
    "coroutine": ("generators", _close),
    "future": ("futures", _forget_result),
    "lru_cache": ("caches", _clear_cache),
    "exception": ("exceptions", _drop_traceback),
    "executor": ("executors", _cancel),
}
"""By the kind of holder: the entry of ``clear`` that allows it, and what is done."""


def let_go(kind: str, holder: Any, allowed: frozenset[str]) -> bool:
    """Make a holder let go if its kind is allowed to be; whether it was."""
    clearing, act = LETS_GO.get(kind, ("", _never))
    if clearing not in allowed:
        return False
    try:
        return act(holder)
    except (RuntimeError, ValueError):  # a generator that runs, or that refuses to end
        return False


def _never(_: Any) -> bool:
    return False
