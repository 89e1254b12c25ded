"""What a trace is: one stream of allocations and frees, each with its phase, place and layer."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from willfit.formulas.phase import ComponentName, PhaseName

Handle = Hashable
"""Names one storage for as long as the recording lasts."""


EMPTY_CACHE: Final = "torch.cuda.empty_cache()"
"""Handle of the events that are not a free: cached segments are given back to the device."""


class Layer(NamedTuple):
    """A layer of a stack of layers (an encoder–decoder model has two)."""

    stack: str
    """Module path of the stack: ``model.layers``."""
    number: int


class Place(NamedTuple):
    """Where in the program something was allocated."""

    module: str
    """Path of the innermost module; "" outside of the model."""
    op: str
    """Name of the operator: ``aten.mm``."""


class Event(NamedTuple):
    """An allocation of ``num_bytes`` where positive, else the free of what ``handle`` names."""

    handle: Handle
    num_bytes: int
    phase: PhaseName
    place: Place
    layer: Layer | None
    """Layer at work; outside of all, the layer that the storage belongs to."""
    gpu: int = 0
    """Index of the GPU of an allocation, where a model is split; a free is where its storage is."""
    stream: int = 0
    """Stream of an allocation, 0 the one that computes: what one frees is not there for another."""


@dataclass(kw_only=True)
class Recording:
    """A trace of one process, on one GPU or on several."""

    events: list[Event] = field(default_factory=list)
    categories: dict[Handle, ComponentName] = field(default_factory=dict)
    """What a storage holds, where known; the rest is told apart by its phase."""
    assumptions: list[str] = field(default_factory=list)
    """What the run could not know and took for granted."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """Indices of the GPUs on which something happened."""
        return tuple(sorted({event.gpu for event in self.events if event.num_bytes}))

    def on(self, gpu: int) -> Recording:
        """What happened on one of the GPUs."""
        here = {event.handle for event in self.events if event.num_bytes and event.gpu == gpu}
        here.add(EMPTY_CACHE)
        return self.with_events([event for event in self.events if event.handle in here])

    def ordered(self) -> Recording:
        """Frees that follow each other outside of the model, in the order of their allocation.

        Autocast lets its cached weights go in the order of a hash table; what is left is the same.
        """
        born = {e.handle: number for number, e in enumerate(self.events) if e.num_bytes}
        events: list[Event] = []
        frees: list[Event] = []
        for event in self.events:
            if event.num_bytes or event.place.module or event.handle == EMPTY_CACHE:
                events += sorted(frees, key=lambda free: born[free.handle])
                frees = []
                events.append(event)
            else:
                frees.append(event)
        events += sorted(frees, key=lambda free: born[free.handle])
        return self.with_events(events)

    def with_events(
        self, events: list[Event], categories: dict[Handle, ComponentName] | None = None
    ) -> Recording:
        """The same recording with other events."""
        return Recording(
            events=events,
            categories=self.categories if categories is None else categories,
            assumptions=self.assumptions,
        )
