"""Other tools beside willfit, on the very same published rows, where they can express them.

One module per tool, named as the tool: ``ABOUT`` (`AboutPeer`), ``predict`` (a scenario to the
bytes that the tool would tell its user, or why it has none) and ``predicts`` (the counters that its
figure is comparable to). Modules that begin with ``_`` are no tools.
"""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib import import_module

from benchmarks.ledger.peers._comparing import Comparison, beside, compare, sampled
from benchmarks.ledger.peers._figures import ALL, PeerFigure, figures, record, recorded
from benchmarks.ledger.peers._peer import AboutPeer, Answer, NotPredicted, Peer

__all__ = [
    "ALL",
    "AboutPeer",
    "Answer",
    "Comparison",
    "NotPredicted",
    "Peer",
    "PeerFigure",
    "beside",
    "compare",
    "figures",
    "peers",
    "record",
    "recorded",
    "sampled",
]


@lru_cache
def peers() -> tuple[Peer, ...]:
    """Every tool, by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return tuple(map(_peer, names))


def _peer(name: str) -> Peer:
    module = import_module(f"{__name__}.{name}")
    path = str(module.__file__)
    return Peer(name, module.ABOUT, module.predict, path)
