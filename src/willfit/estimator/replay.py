"""A recording replayed through the simulated allocator: peaks and components of every phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator, SimulatedOutOfMemory
from willfit.formulas.phase import ComponentName, PhaseName
from willfit.results import Failure
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


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A recording on one device."""

    phases: tuple[ReplayedPhase, ...]
    failure: Failure | None = None
    """Where a device of the real size would run out; the phases are then of a larger one."""


def replay(
    recording: Recording,
    alloc_conf: str = "",
    capacity_bytes: int | None = None,
    total_bytes: int | None = None,
) -> tuple[ReplayedPhase, ...]:
    """Every phase in the order of its first event; raises `OutOfMemoryAt` at a capacity."""
    allocator = Allocator(
        parse_alloc_conf(alloc_conf), capacity_bytes=capacity_bytes, total_bytes=total_bytes
    )
    changes, peaks = _simulate(recording.events, allocator)
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


TRIES: Final = 3
"""Halvings between what is allocated and what a device without end would reserve."""


def replay_on(
    recording: Recording,
    alloc_conf: str,
    capacity_bytes: int | None,
    total_bytes: int | None = None,
) -> Replayed:
    """As the device would have it: cached segments are given back where it is full.

    Where even that does not help, the failure, and what it would take on the smallest larger device
    of those tried. ``capacity_bytes``: what the process may take of ``total_bytes``.
    """
    try:
        return Replayed(phases=replay(recording, alloc_conf, capacity_bytes, total_bytes))
    except OutOfMemoryAt as error:
        failure = error.failure
    phases = replay(recording, alloc_conf)
    low = max(phase.allocated_bytes for phase in phases)
    high = max(phase.reserved_bytes for phase in phases)
    for _ in range(TRIES):
        middle = (low + high) // 2
        try:
            phases, high = replay(recording, alloc_conf, middle), middle
        except OutOfMemoryAt:
            low = middle
    return Replayed(phases=phases, failure=failure)


class OutOfMemoryAt(SimulatedOutOfMemory):
    """A simulated device ran out of memory, at a known place of a recording."""

    def __init__(self, error: SimulatedOutOfMemory, event: Event) -> None:
        super().__init__(error.state)
        self.failure = Failure(
            phase=event.phase,
            module=event.place.module,
            op=event.place.op,
            tried_bytes=error.state.tried_bytes,
            message=f"CUDA out of memory. {error}"
            if not str(error).startswith("CUDA")
            else str(error),
        )


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
            address = addresses[event.handle] = allocator.malloc(event.num_bytes, event.stream)
        elif event.handle == EMPTY_CACHE:
            address = 0
            allocator.empty_cache()
        else:
            address = addresses.pop(event.handle)
            allocator.free(address)
        yield event, address


def changes_of(events: Iterable[Event], allocator: Allocator) -> Iterator[tuple[Event, int]]:
    """Each event with the bytes, block and all, by which it changed what is allocated."""
    held = allocator.allocated_bytes
    for event, _ in placed(events, allocator):
        yield event, allocator.allocated_bytes - held
        held = allocator.allocated_bytes


def _simulate(
    events: Sequence[Event], allocator: Allocator
) -> tuple[list[int], dict[PhaseName, _Peak]]:
    """The change that every event makes, and where each phase's peak is."""
    changes: list[int] = []
    peaks: dict[PhaseName, _Peak] = {}
    try:
        for position, (event, change) in enumerate(changes_of(events, allocator)):
            changes.append(change)
            peak = peaks.get(event.phase) or peaks.setdefault(event.phase, _Peak())
            if not event.num_bytes:
                continue
            peak.reserved_bytes = max(peak.reserved_bytes, allocator.reserved_bytes)
            if allocator.allocated_bytes > peak.allocated_bytes:
                peak.position, peak.allocated_bytes = position, allocator.allocated_bytes
    except SimulatedOutOfMemory as error:
        raise OutOfMemoryAt(error, events[len(changes)]) from None
    return changes, peaks


def _components(
    recording: Recording, changes: Sequence[int], positions: set[int]
) -> dict[int, dict[ComponentName, int]]:
    """What is alive right after each of these events, by component."""
    kinds = dict(kinds_of(recording))
    totals: dict[ComponentName, int] = {}
    found: dict[int, dict[ComponentName, int]] = {}
    for position, (event, change) in enumerate(zip(recording.events, changes, strict=True)):
        kind = kinds.get(event.handle, "temporaries")
        totals[kind] = totals.get(kind, 0) + change
        if position in positions:
            found[position] = {name: amount for name, amount in totals.items() if amount}
    return found


def kinds_of(recording: Recording) -> Iterator[tuple[Handle, ComponentName]]:
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
