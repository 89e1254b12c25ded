"""Rank: what one process of several allocates, made of what a single GPU does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

from willfit.estimator.replay import kinds_of
from willfit.formulas.phase import ComponentName
from willfit.scenario import Scenario
from willfit.trace.recording import Event, Handle, Place, Recording

COLLECTIVE: Final = Place("", "collective")
"""Where a rank talks to the others."""
GATHER, REDUCE = 1, 2
"""Streams: all-gathers' and reductions'; 0 is the one that computes."""


class Rank(Protocol):
    """One GPU of several."""

    def recording(self, alone: Recording) -> Recording:
        """What this rank allocates where a single GPU makes ``alone``."""

    def has(self, phase: str, /) -> bool:
        """Whether the rank goes through a phase of the trace."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """All GPUs that share one work; equal ones are one object."""

    ranks: Sequence[Rank]
    note: str
    notes: Mapping[ComponentName, str]
    alone: Scenario
    """What a single GPU would run that computes as a rank does."""

    def recordings(self, alone: Recording) -> list[Recording]:
        """One for each GPU; equal ranks have the same."""
        made: dict[int, Recording] = {}
        for rank in self.ranks:
            if id(rank) not in made:
                made[id(rank)] = rank.recording(alone)
        return [made[id(rank)] for rank in self.ranks]


class WalkedRank(ABC):
    """A rank that does all that a single GPU does, and something around it."""

    @abstractmethod
    def walk(self, alone: Recording) -> Walk:
        """The way through what a single GPU makes."""

    def recording(self, alone: Recording) -> Recording:
        """What this rank allocates where a single GPU makes ``alone``."""
        walk = self.walk(alone)
        events = list(walk.events())
        return alone.with_events(events, {**alone.categories, **walk.categories})

    def has(self, _: str, /) -> bool:
        """It goes through all phases."""
        return True


class Walk(ABC):
    """A way through one GPU's recording, on which a rank's own events are made."""

    def __init__(self, alone: Recording) -> None:
        self.runs = [list(run) for _, run in groupby(alone.events, key=lambda e: e.phase)]
        """Events of the single GPU, phase after phase."""
        self.categories: dict[Handle, ComponentName] = {}
        """What the storages hold that a single GPU has not."""
        self.kinds: Mapping[Handle, ComponentName] = dict(kinds_of(alone))
        self.freed = {event.handle for event in alone.events if not event.num_bytes}
        self.at = Event(None, 0, "load", COLLECTIVE, None)
        """The event of the single GPU's at which the way is."""
        self._adapted = "adapters" in self.kinds.values()

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """All that the rank does."""

    def make(self, handle: Handle, num_bytes: int, kind: ComponentName, stream: int = 0) -> Event:
        """An allocation of the rank's own."""
        self.categories[handle] = kind
        at = self.at
        return Event(handle, max(num_bytes, 1), at.phase, COLLECTIVE, at.layer, at.gpu, stream)

    def free(self, handle: Handle) -> Event:
        """The free of one."""
        return Event(handle, 0, self.at.phase, COLLECTIVE, self.at.layer, self.at.gpu)

    def stays(self, event: Event) -> bool:
        """Whether it allocates a weight, the model's or an adapter's, that is there to the end."""
        kind = self.kinds.get(event.handle)
        return event.num_bytes > 0 and kind in _WEIGHTS and event.handle not in self.freed

    def trains(self, weight: Event) -> bool:
        """Whether it trains: adapters alone do where there are some."""
        return not self._adapted or self.kinds.get(weight.handle) == "adapters"


_WEIGHTS: Final = ("weights", "adapters")
