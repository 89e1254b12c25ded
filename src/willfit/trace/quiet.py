"""Silence for the libraries that a trace runs."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries warn of what a CPU lacks, once a layer; none of it concerns the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        bars = _no_progress_bars()
        try:
            yield
        finally:
            bars()
            logging.disable(logging.NOTSET)


def _no_progress_bars() -> Callable[[], None]:
    """Unpacking draws them; returns what lets them be drawn again."""
    if importlib.util.find_spec("tqdm") is None:
        return lambda: None
    bar: Any = importlib.import_module("tqdm").tqdm
    start = bar.__init__

    def undrawn(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **{**kwargs, "disable": True})

    def again() -> None:
        bar.__init__ = start

    bar.__init__ = undrawn
    return again
