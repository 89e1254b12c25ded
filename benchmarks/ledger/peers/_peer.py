"""What a peer is: another tool, what it claims to count, and its figure for a scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.ledger.reading import Amount
from willfit.results import Level
from willfit.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class AboutPeer:
    """What the page says of a tool: each peer module has one, ``ABOUT``."""

    title: str
    version: str
    """Release or commit that is run."""
    licence: str
    source: str
    """Where it is published."""
    claims: str
    """What its figure is said to be, in short."""
    called: str
    """How it is called here, and what was settled in its favour."""
    counters: tuple[Amount, ...]
    """Counters that its figure is comparable to, the nearest first."""
    level: Level = "formula"
    """Which of an importer's scenarios it is asked: those of the formulas or those of the trace."""
    slow: bool = False
    """Whether an answer takes so long that it is asked for a sample of the rows alone."""


@dataclass(frozen=True, kw_only=True)
class NotPredicted:
    """A scenario for which the tool has no figure, and why."""

    reason: str
    is_kept: bool = True
    """False where the tool was not at hand: the next time it may be."""


Answer = int | NotPredicted
"""Bytes that the tool would tell a user."""


class Peer(NamedTuple):
    """A peer module's parts."""

    name: str
    about: AboutPeer
    predict: Callable[[Scenario], Answer]
    path: str
    """Its file: answers are kept by its text."""

    def predicts(self, counter: Amount) -> bool:
        """Whether its figure is comparable to a counter."""
        return counter in self.about.counters
