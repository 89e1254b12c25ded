"""The state of one GPU's allocator at any event: the end of the recording with events taken back.

A recording that fills its buffer loses its oldest events, so nothing is known from the start on;
the segments at the end are always whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from willfit.allocator.rounding import SMALL_SIZE, round_block
from willfit.doctor.snapshots.contents import Event, Segment, Stack
from willfit.doctor.snapshots.stretches import Stretch, Stretches


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A block in use."""

    address: int
    num_bytes: int
    """Of the block; 0 where only the request is known, until `Moment` has looked around it."""
    requested_bytes: int
    stack: Stack = ()
    category: str = ""
    since: int | None = None
    """Number of the event that made it; None is before the recording."""
    pending: bool = False


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What one GPU held."""

    stretches: tuple[Stretch, ...]
    tenants: tuple[Tenant, ...]
    """Both by address."""
    starts: list[int] = field(repr=False)
    """Addresses of the tenants."""

    @property
    def reserved_bytes(self) -> int:
        """Taken from the device."""
        return sum(stretch.num_bytes for stretch in self.stretches)

    @property
    def live_bytes(self) -> int:
        """In blocks that are in use."""
        return sum(tenant.num_bytes for tenant in self.tenants)

    def within(self, stretch: Stretch) -> tuple[Tenant, ...]:
        """Tenants of a stretch."""
        first = bisect_left(self.starts, stretch.address)
        return self.tenants[first : bisect_left(self.starts, stretch.end)]

    def gaps(self, stretch: Stretch) -> Iterator[tuple[int, int]]:
        """Free blocks of a stretch: (address, bytes)."""
        position = stretch.address
        for tenant in self.within(stretch):
            if tenant.address > position:
                yield position, tenant.address - position
            position = tenant.address + tenant.num_bytes
        if position < stretch.end:
            yield position, stretch.end - position


def moment(segments: Sequence[Segment], trace: Sequence[Event], position: int) -> Moment:
    """One GPU before the event at ``position``; after the last, ``segments`` as they are."""
    stretches, tenants = _at_end(segments)
    tenants = _taken_back(trace, position, stretches, tenants)
    made = _made(trace, position)
    ordered = stretches.ordered()
    known = [
        _dated(tenant, trace, made.get(address)) for address, tenant in sorted(tenants.items())
    ]
    inside = list(_measured(known, ordered))
    return Moment(
        stretches=tuple(ordered),
        tenants=tuple(inside),
        starts=[tenant.address for tenant in inside],
    )


def _at_end(segments: Sequence[Segment]) -> tuple[Stretches, dict[int, Tenant]]:
    stretches = Stretches()
    tenants = {}
    for segment in segments:
        stretches.add(
            Stretch(
                address=segment.address,
                num_bytes=segment.num_bytes,
                stream=segment.stream,
                small=segment.small,
                expandable=segment.expandable,
                pool=segment.pool,
            )
        )
        for block in segment.blocks:
            if block.state != "free":
                tenants[block.address] = Tenant(
                    address=block.address,
                    num_bytes=block.num_bytes,
                    requested_bytes=block.requested_bytes,
                    stack=block.stack,
                    category=block.category,
                    pending=block.state == "pending",
                )
    return stretches, tenants


def _taken_back(
    trace: Sequence[Event], position: int, stretches: Stretches, tenants: dict[int, Tenant]
) -> dict[int, Tenant]:
    """What is in use before the event at ``position``; the stretches are changed in place."""
    again: dict[int, int] = {}
    pending: set[int] = set()
    for index in range(len(trace) - 1, position - 1, -1):
        action, address, num_bytes = trace[index][:3]
        if action == "alloc":
            tenants.pop(address, None)
            again.pop(address, None)
        elif action == "free_completed":
            again[address] = num_bytes
            pending.add(address)
        elif action == "free_requested":
            pending.discard(address)
            held = tenants.get(address)
            if held is not None:
                tenants[address] = replace(held, pending=False)
            else:
                again.setdefault(address, num_bytes)
        elif action.startswith("segment_"):
            stretches.take_back(trace[index])
    for address, num_bytes in again.items():
        tenants[address] = Tenant(
            address=address,
            num_bytes=0,
            requested_bytes=num_bytes,
            pending=address in pending,
        )
    return tenants


def _made(trace: Sequence[Event], position: int) -> dict[int, int]:
    """By address, the event before ``position`` that made what is in use there."""
    made: dict[int, int] = {}
    for index in range(position):
        event = trace[index]
        if event.action == "alloc":
            made[event.address] = index
        elif event.action == "free_completed":
            made.pop(event.address, None)
    return made


def _dated(tenant: Tenant, trace: Sequence[Event], since: int | None) -> Tenant:
    if since is None:
        return tenant
    event = trace[since]
    return replace(
        tenant,
        since=since,
        stack=tenant.stack or event.stack,
        category=tenant.category or event.category,
        requested_bytes=tenant.requested_bytes or event.num_bytes,
    )


def _measured(tenants: Sequence[Tenant], stretches: Sequence[Stretch]) -> Iterator[Tenant]:
    """Tenants inside the stretches, each with the size of its block.

    Of what was freed later only the request is known: it is rounded, and in a segment of large
    blocks a rest of up to 1 MiB belongs to it, for so little is never split off.
    """
    starts = [tenant.address for tenant in tenants]
    for stretch in stretches:
        first, last = bisect_left(starts, stretch.address), bisect_left(starts, stretch.end)
        limits = [*starts[first + 1 : last], stretch.end]
        for tenant, limit in zip(tenants[first:last], limits, strict=False):
            room = limit - tenant.address
            size = tenant.num_bytes or round_block(tenant.requested_bytes)
            if not tenant.num_bytes and not (stretch.small or stretch.expandable):
                size = room if room - size <= SMALL_SIZE else size
            yield (
                tenant
                if tenant.num_bytes == size <= room
                else replace(tenant, num_bytes=min(size, room))
            )
