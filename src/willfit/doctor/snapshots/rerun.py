"""Recorded events through the simulated allocator, from the state before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.allocator.config import AllocatorConfig, parse_alloc_conf
from willfit.allocator.replay import Segment, restore, restore_expandable
from willfit.allocator.rounding import ROUND_LARGE
from willfit.allocator.simulator import Allocator, SimulatedOutOfMemory
from willfit.doctor.snapshots.contents import Event, PoolId
from willfit.doctor.snapshots.moment import Moment
from willfit.doctor.snapshots.shapes import MAX_ADDRESS
from willfit.errors import InputError
from willfit.units import round_up

_GIVES_BACK: Final = ("segment_free", "segment_unmap")
_TAKES: Final = ("segment_alloc", "segment_map", "oom")
_MAX_SIMULATED: Final = 2**60
"""The simulated allocator orders blocks by addresses below."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """What the simulated allocator did."""

    reserved: list[int]
    """After every allocation that was made."""
    reserved_bytes: int
    """At the end, or where it failed."""
    peak_reserved_bytes: int
    failed_at: int | None
    """Number of the event that found no memory; for the last, the recorded failure."""
    repacked: bool
    """Whether what was there before was placed anew."""
    num_unknown_frees: int


def rerun(
    events: Sequence[Event],
    before: Moment,
    alloc_conf: str,
    capacity_bytes: int | None,
    *,
    faithfully: bool = False,
) -> Rerun:
    """Replay events, of which a last ``oom`` is the request that failed.

    ``faithfully``: cached memory is given back whenever the recording says so; else only where
    ``empty_cache`` did it, and where the simulated device is full.
    """
    config = parse_alloc_conf(alloc_conf)
    player = _Player(config, _most(events, before, capacity_bytes))
    repacked = player.begin(before)
    partly = bool(config.max_split_bytes) or config.gc_threshold > 0
    # without an end the simulated device is never full
    everywhere = capacity_bytes is None or (faithfully and not partly)
    emptied = set(_emptied(events, everywhere))
    reserved: list[int] = []
    failed_at = None
    for position, event in enumerate(events):
        if position in emptied:
            player.allocator.empty_cache()
        last = event.action == "oom" and position == len(events) - 1
        if last:
            player.allocator.device.capacity_bytes = capacity_bytes
        if last and event.num_bytes > (capacity_bytes or 0):
            failed_at = position
            break
        try:
            if player.play(event, attempt=last):
                reserved.append(player.allocator.reserved_bytes)
        except SimulatedOutOfMemory:
            failed_at = position
            break
    return Rerun(
        reserved=reserved,
        reserved_bytes=player.allocator.reserved_bytes,
        peak_reserved_bytes=player.allocator.peak_reserved_bytes,
        failed_at=failed_at,
        repacked=repacked,
        num_unknown_frees=player.num_unknown,
    )


class _Player:
    def __init__(self, config: AllocatorConfig, capacity_bytes: int | None) -> None:
        self._next = MAX_ADDRESS
        self.allocator = Allocator(
            config, capacity_bytes=capacity_bytes, new_address=self._new_address
        )
        self._places: dict[int, int] = {}
        """Simulated address by the recorded one."""
        self._streams: dict[tuple[int, PoolId], int] = {}
        self.num_unknown = 0

    def begin(self, before: Moment) -> bool:
        """Take over what was there; whether it had to be placed anew."""
        grows = self.allocator.config.expandable_segments
        if any(stretch.expandable != grows for stretch in before.stretches):
            for stretch in before.stretches:
                stream = self._stream(stretch.stream, stretch.pool)
                for tenant in before.within(stretch):
                    self._places[tenant.address] = self.allocator.malloc(tenant.num_bytes, stream)
            self.allocator.reset_peaks()
            return True
        segments = list(self._segments(before))
        (restore_expandable if grows else restore)(self.allocator, segments)
        self._places.update((address, address) for s in segments for address, _ in s.live)
        return False

    def play(self, event: Event, *, attempt: bool) -> bool:
        """One event; True where it allocated. An ``oom`` counts only as the ``attempt``."""
        action, address, num_bytes, stream, _, pool, *_ = event
        if action == "alloc" or attempt:
            if not num_bytes:
                return False
            made = self.allocator.malloc(num_bytes, self._stream(stream, pool))
            self._places[address] = made
            return True
        if action == "free_completed":
            place = self._places.pop(address, None)
            if place is None:
                self.num_unknown += 1
            else:
                self.allocator.free(place)
        return False

    def _segments(self, before: Moment) -> Iterator[Segment]:
        end = 0
        for stretch in before.stretches:
            if stretch.address < end:
                continue  # a broken file: two segments in one place
            end = stretch.end
            yield Segment(
                address=stretch.address,
                size=stretch.num_bytes,
                small=stretch.small,
                stream=self._stream(stretch.stream, stretch.pool),
                live=[(t.address, t.num_bytes) for t in before.within(stretch) if t.num_bytes],
            )

    def _stream(self, stream: int, pool: PoolId) -> int:
        """The simulated allocator keeps pools apart by stream alone."""
        return self._streams.setdefault((stream, pool), len(self._streams))

    def _new_address(self, num_bytes: int) -> int:
        address, self._next = self._next, self._next + round_up(num_bytes, ROUND_LARGE)
        if self._next > _MAX_SIMULATED:
            raise InputError("the recording allocates more than any device has: it is not replayed")
        return address


def _most(events: Sequence[Event], before: Moment, capacity_bytes: int | None) -> int | None:
    """What the device gave at most: when it failed, or earlier where other processes took less."""
    if capacity_bytes is None:
        return None
    reserved = most = before.reserved_bytes
    for event in events:
        if event.action in ("segment_alloc", "segment_map"):
            reserved += event.num_bytes
            most = max(most, reserved)
        elif event.action in _GIVES_BACK:
            reserved -= event.num_bytes
    return max(most, capacity_bytes)


def _emptied(events: Sequence[Event], everywhere: bool) -> Iterator[int]:
    """Where all that was cached was given back: the first of a run of such events."""
    start = None
    for position, event in enumerate(events):
        if event.action in _GIVES_BACK:
            start = position if start is None else start
        elif start is not None:
            if everywhere or _by_user(events[start], event):
                yield start
            start = None
    if start is not None:
        yield start


def _by_user(event: Event, following: Event) -> bool:
    """Whether ``empty_cache`` gave memory back, and not an allocation that found none."""
    if event.stack:
        return any("emptyCache" in f.function or "empty_cache" in f.function for f in event.stack)
    return following.action not in _TAKES
