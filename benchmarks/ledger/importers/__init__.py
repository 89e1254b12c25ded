"""One module per source, named as its file: its rows as scenarios, or why they cannot be expressed.

A module has ``ABOUT`` (`benchmarks.ledger.row.About`) and ``express``; ``express_by_trace`` where
the trace is asked another way. A new source is a new module; nothing else has to know it.
"""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib import import_module
from types import ModuleType

from benchmarks.ledger.row import About, Importer
from willfit.results import Level


@lru_cache
def sources() -> tuple[str, ...]:
    """Names of the sources that can be read."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def importer(source: str, level: Level) -> Importer | None:
    """How a source's rows are expressed at a level; None for an unknown source."""
    if source not in sources():
        return None
    module = _module(source)
    express: Importer = module.express
    if level == "trace":
        by_trace: Importer = getattr(module, "express_by_trace", express)
        return by_trace
    return express


def about(source: str) -> About:
    """What the page says of a source; raises `KeyError` for one without an importer."""
    if source not in sources():
        raise KeyError(source)
    found: About = _module(source).ABOUT
    return found


def _module(source: str) -> ModuleType:
    return import_module(f"{__name__}.{source}")
