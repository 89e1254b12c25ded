"""A recording replayed through the simulated allocator: peaks and components of every phase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator, SimulatedOutOfMemory
from willfit.formulas.phase import ComponentName, PhaseName
from willfit.results import Alive, Moment, Timeline
from willfit.trace.recording import EMPTY_CACHE, Event, Handle, Recording


@dataclass(frozen=True, kw_only=True)
class ReplayedPhase:
    """Peaks of one phase; its components add up to the allocated one."""

    name: PhaseName
    allocated_bytes: int
    reserved_bytes: int
    components: dict[ComponentName, int]
    position: int
    """Number of the event after which most is allocated."""


def replay(
    recording: Recording, alloc_conf: str = "", capacity_bytes: int | None = None
) -> tuple[ReplayedPhase, ...]:
    """Every phase in the order of its first event; raises `SimulatedOutOfMemory` at a capacity."""
    changes, peaks = _simulate(recording.events, alloc_conf, capacity_bytes)
    totals = _components(recording, changes, {peak.position for peak in peaks.values()})
    return tuple(
        ReplayedPhase(
            name=name,
            allocated_bytes=peak.allocated_bytes,
            reserved_bytes=peak.reserved_bytes,
            components=totals[peak.position],
            position=peak.position,
        )
        for name, peak in peaks.items()
    )


def replay_on(
    recording: Recording, alloc_conf: str, capacity_bytes: int | None
) -> tuple[ReplayedPhase, ...]:
    """As the device would have it: cached segments are given back where it is full.

    Where even that does not help, what it would take on a device without end.
    """
    try:
        return replay(recording, alloc_conf, capacity_bytes)
    except SimulatedOutOfMemory:
        return replay(recording, alloc_conf)


@dataclass
class _Peak:
    position: int = 0
    allocated_bytes: int = -1
    reserved_bytes: int = 0


def placed(events: Iterable[Event], allocator: Allocator) -> Iterator[tuple[Event, int]]:
    """Each event, once the allocator has done it, with the address that it was about."""
    addresses: dict[Handle, int] = {}
    for event in events:
        if event.num_bytes:
            address = addresses[event.handle] = allocator.malloc(event.num_bytes)
        elif event.handle == EMPTY_CACHE:
            address = 0
            allocator.empty_cache()
        else:
            address = addresses.pop(event.handle)
            allocator.free(address)
        yield event, address


def _changes(events: Iterable[Event], allocator: Allocator) -> Iterator[tuple[Event, int]]:
    """Each event with the bytes, block and all, by which it changed what is allocated."""
    held = allocator.allocated_bytes
    for event, _ in placed(events, allocator):
        yield event, allocator.allocated_bytes - held
        held = allocator.allocated_bytes


def _simulate(
    events: Sequence[Event], alloc_conf: str, capacity_bytes: int | None
) -> tuple[list[int], dict[PhaseName, _Peak]]:
    """The change that every event makes, and where each phase's peak is."""
    allocator = Allocator(parse_alloc_conf(alloc_conf), capacity_bytes=capacity_bytes)
    changes: list[int] = []
    peaks: dict[PhaseName, _Peak] = {}
    for position, (event, change) in enumerate(_changes(events, allocator)):
        changes.append(change)
        peak = peaks.get(event.phase) or peaks.setdefault(event.phase, _Peak())
        if not event.num_bytes:
            continue
        peak.reserved_bytes = max(peak.reserved_bytes, allocator.reserved_bytes)
        if allocator.allocated_bytes > peak.allocated_bytes:
            peak.position, peak.allocated_bytes = position, allocator.allocated_bytes
    return changes, peaks


def _components(
    recording: Recording, changes: Sequence[int], positions: set[int]
) -> dict[int, dict[ComponentName, int]]:
    """What is alive right after each of these events, by component."""
    kinds = dict(_kinds(recording))
    totals: dict[ComponentName, int] = {}
    found: dict[int, dict[ComponentName, int]] = {}
    for position, (event, change) in enumerate(zip(recording.events, changes, strict=True)):
        kind = kinds.get(event.handle, "temporaries")
        totals[kind] = totals.get(kind, 0) + change
        if position in positions:
            found[position] = {name: amount for name, amount in totals.items() if amount}
    return found


def _kinds(recording: Recording) -> Iterator[tuple[Handle, ComponentName]]:
    """What every storage holds: as marked, or by the phase that made it.

    What a training step's forward pass makes and does not free itself is kept for backward.
    """
    training = any(event.phase == "backward" for event in recording.events)
    freed_in = {event.handle: event.phase for event in recording.events if not event.num_bytes}
    for event in recording.events:
        if not event.num_bytes:
            continue
        marked = recording.categories.get(event.handle)
        if marked is not None:
            yield event.handle, marked
        elif event.phase == "forward" and training:
            passing = freed_in.get(event.handle) == "forward"
            yield event.handle, "temporaries" if passing else "activations"
        elif event.phase in ("forward", "prefill", "decode"):
            yield event.handle, "activations"
        else:
            yield event.handle, "weights" if event.phase == "load" else "temporaries"


LISTED: Final = 10
"""Kinds of storages that a report lists."""
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")


def largest_alive(recording: Recording, phases: Sequence[ReplayedPhase]) -> tuple[Alive, ...]:
    """What is alive where most is allocated, by module and operator, the largest first.

    Loading is left out where work follows.
    """
    working = [phase for phase in phases if phase.name != "load"] or phases
    position = max(working, key=lambda phase: phase.allocated_bytes).position
    alive: dict[Handle, Event] = {}
    for event in recording.events[: position + 1]:
        if event.num_bytes:
            alive[event.handle] = event
        elif event.handle != EMPTY_CACHE:
            del alive[event.handle]
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for event in alive.values():
        key = (_NUMBER.sub("*", event.place.module), event.place.op, event.phase)
        amount, count = sums.get(key, (0, 0))
        sums[key] = (amount + event.num_bytes, count + 1)
    ranked = sorted(sums.items(), key=lambda item: -item[1][0])[:LISTED]
    return tuple(
        Alive(module=module, op=op, phase=phase, num_bytes=amount, count=count)
        for (module, op, phase), (amount, count) in ranked
    )


MOMENTS: Final = 1200
"""Moments of a timeline: more than a picture has columns."""


def timelines(recording: Recording, alloc_conf: str = "") -> dict[int, Timeline]:
    """The run on each of its GPUs, by index."""
    return {gpu: timeline(recording.on(gpu), alloc_conf) for gpu in recording.gpus}


def timeline(recording: Recording, alloc_conf: str = "", moments: int = MOMENTS) -> Timeline:
    """One GPU's run cut into equal stretches of events, each shown at its fullest."""
    allocator = Allocator(parse_alloc_conf(alloc_conf))
    kinds = dict(_kinds(recording))
    totals: dict[str, int] = {}
    stretch = max(len(recording.events) // moments, 1)
    found: list[Moment] = []
    fullest = -1
    for number, (event, change) in enumerate(_changes(recording.events, allocator)):
        kind = kinds.get(event.handle, "temporaries")
        totals[kind] = totals.get(kind, 0) + change
        if number % stretch == 0:
            fullest = -1
            found.append(Moment(phase=event.phase, components={}, reserved_bytes=0))
        if allocator.allocated_bytes > fullest:
            fullest = allocator.allocated_bytes
            found[-1] = Moment(
                phase=event.phase,
                components=dict(totals),
                reserved_bytes=allocator.reserved_bytes,
            )
    return Timeline(moments=tuple(found))
