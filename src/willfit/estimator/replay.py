"""A recording replayed through the simulated allocator: peaks and components of every phase."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator, SimulatedOutOfMemory
from willfit.formulas.phase import ComponentName, PhaseName
from willfit.results import Alive, Moment, Timeline
from willfit.trace.recording import Event, Handle, Recording


@dataclass(frozen=True, kw_only=True)
class ReplayedPhase:
    """Peaks of one phase; its components add up to the allocated one."""

    name: PhaseName
    allocated_bytes: int
    reserved_bytes: int
    components: dict[ComponentName, int]


def replay(
    recording: Recording, alloc_conf: str = "", capacity_bytes: int | None = None
) -> tuple[ReplayedPhase, ...]:
    """Every phase in the order of its first event; raises `SimulatedOutOfMemory` at a capacity."""
    sizes, peaks = _simulate(recording.events, alloc_conf, capacity_bytes)
    totals = _components(recording, sizes, {peak.position for peak in peaks.values()})
    return tuple(
        ReplayedPhase(
            name=name,
            allocated_bytes=peak.allocated_bytes,
            reserved_bytes=peak.reserved_bytes,
            components=totals[peak.position],
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


def _simulate(
    events: Sequence[Event], alloc_conf: str, capacity_bytes: int | None
) -> tuple[dict[Handle, int], dict[PhaseName, _Peak]]:
    """Block size of every storage, and where each phase's peak is."""
    allocator = Allocator(parse_alloc_conf(alloc_conf), capacity_bytes=capacity_bytes)
    addresses: dict[Handle, int] = {}
    sizes: dict[Handle, int] = {}
    peaks: dict[PhaseName, _Peak] = {}
    for position, event in enumerate(events):
        peak = peaks.get(event.phase) or peaks.setdefault(event.phase, _Peak())
        if not event.num_bytes:
            allocator.free(addresses.pop(event.handle))
            continue
        before = allocator.allocated_bytes
        addresses[event.handle] = allocator.malloc(event.num_bytes)
        sizes[event.handle] = allocator.allocated_bytes - before
        peak.reserved_bytes = max(peak.reserved_bytes, allocator.reserved_bytes)
        if allocator.allocated_bytes > peak.allocated_bytes:
            peak.position, peak.allocated_bytes = position, allocator.allocated_bytes
    return sizes, peaks


def _components(
    recording: Recording, sizes: dict[Handle, int], positions: set[int]
) -> dict[int, dict[ComponentName, int]]:
    """What is alive right after each of these events, by component."""
    kinds = dict(_kinds(recording))
    totals: dict[ComponentName, int] = {}
    found: dict[int, dict[ComponentName, int]] = {}
    for position, event in enumerate(recording.events):
        kind = kinds[event.handle]
        size = sizes[event.handle]
        totals[kind] = totals.get(kind, 0) + (size if event.num_bytes else -size)
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


def largest_alive(recording: Recording) -> tuple[Alive, ...]:
    """What is alive where most is allocated, by module and operator, the largest first."""
    alive: dict[Handle, Event] = {}
    best: list[Event] = []
    position = _peak_position(recording.events)
    for number, event in enumerate(recording.events):
        if event.num_bytes:
            alive[event.handle] = event
        else:
            del alive[event.handle]
        if number == position:
            best = list(alive.values())
            break
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for event in best:
        key = (_NUMBER.sub("*", event.place.module), event.place.op, event.phase)
        amount, count = sums.get(key, (0, 0))
        sums[key] = (amount + event.num_bytes, count + 1)
    ranked = sorted(sums.items(), key=lambda item: -item[1][0])[:LISTED]
    return tuple(
        Alive(module=module, op=op, phase=phase, num_bytes=amount, count=count)
        for (module, op, phase), (amount, count) in ranked
    )


def _peak_position(events: Sequence[Event]) -> int:
    """Number of the event after which most is allocated (loading left out where work follows)."""
    sizes: dict[Handle, int] = {}
    works = any(event.phase != "load" for event in events)
    total = most = position = 0
    for number, event in enumerate(events):
        if event.num_bytes:
            sizes[event.handle] = event.num_bytes
            total += event.num_bytes
        else:
            total -= sizes.pop(event.handle)
        if total > most and not (works and event.phase == "load"):
            most, position = total, number
    return position


MOMENTS: Final = 1200
"""Moments of a timeline: more than a picture has columns."""


def timeline(recording: Recording, alloc_conf: str = "", moments: int = MOMENTS) -> Timeline:
    """The run cut into equal stretches of events, each shown at its fullest."""
    allocator = Allocator(parse_alloc_conf(alloc_conf))
    kinds = dict(_kinds(recording))
    addresses: dict[Handle, int] = {}
    sizes: dict[Handle, int] = {}
    totals: dict[str, int] = {}
    stretch = max(len(recording.events) // moments, 1)
    found: list[Moment] = []
    fullest = -1
    for number, event in enumerate(recording.events):
        before = allocator.allocated_bytes
        if event.num_bytes:
            addresses[event.handle] = allocator.malloc(event.num_bytes)
            sizes[event.handle] = allocator.allocated_bytes - before
        else:
            allocator.free(addresses.pop(event.handle))
        change = sizes[event.handle] if event.num_bytes else -sizes.pop(event.handle)
        kind = kinds[event.handle]
        totals[kind] = totals.get(kind, 0) + change
        if number % stretch == 0 or not found:
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
