"""Replay a stream of allocations and frees, from a cold start or from a snapshot's state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from willfit.allocator.blocks import Block, link
from willfit.allocator.expandable import MAX_MAPPED
from willfit.allocator.rounding import round_block
from willfit.allocator.simulator import Allocator


@dataclass(frozen=True, kw_only=True)
class Event:
    """An allocation of ``num_bytes`` where positive, else the free of what ``handle`` names."""

    handle: int
    """Name of the tensor's storage: an address, or any number that is not in use."""
    num_bytes: int = 0
    stream: int = 0
    empties_cache: bool = False
    """Whether this is ``torch.cuda.empty_cache()`` instead."""


def replay(events: Iterable[Event], allocator: Allocator) -> Iterator[tuple[Event, int]]:
    """Each event with the address that the simulated allocator gave (or had given) it.

    A free of a handle that was not allocated here is looked up as an address: what was alive
    before the events began.
    """
    addresses: dict[int, int] = {}
    for event in events:
        address = 0
        if event.empties_cache:
            allocator.empty_cache()
        elif event.num_bytes:
            addresses[event.handle] = address = allocator.malloc(event.num_bytes, event.stream)
        else:
            address = addresses.pop(event.handle, event.handle)
            allocator.free(address)
        yield event, address


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment that is there before the events begin."""

    address: int
    size: int
    stream: int = 0
    small: bool
    live: Sequence[tuple[int, int]] = ()
    """(address, requested bytes) of what is alive in it, by address."""


def restore(allocator: Allocator, segments: Iterable[Segment]) -> None:
    """Put segments and their live blocks into an allocator that holds nothing yet.

    What lies between live blocks is free; in a segment of large blocks up to 1 MiB behind one
    belongs to it, for so little is never split off.
    """
    for segment in segments:
        allocator.device.take(segment.size)
        last: Block | None = None
        for block in _blocks(allocator, segment):
            link(last, block)
            last = block
            if block.requested:
                allocator.live[block.address] = block
                allocator.requested_bytes += block.requested
                allocator.allocated_bytes += block.size
            else:
                block.pool.add(block)
    allocator.reset_peaks()


def _blocks(allocator: Allocator, segment: Segment) -> Iterator[Block]:
    pool = allocator.pool(segment.small, segment.stream)
    position, end = segment.address, segment.address + segment.size
    starts = [address for address, _ in segment.live] + [end]
    gap = starts[0] - position
    if gap:
        yield Block(position, gap, pool)
    for (address, requested), following in zip(segment.live, starts[1:], strict=True):
        size = round_block(requested)
        gap = following - address - size
        if gap <= pool.kept_rest:
            size, gap = size + gap, 0
        yield Block(address, size, pool, requested=requested)
        if gap:
            yield Block(address + size, gap, pool)


def restore_expandable(allocator: Allocator, segments: Iterable[Segment]) -> None:
    """The same of expandable segments, each given as the stretch of it that is mapped.

    Stretches of one stream and kind are taken as one segment's, which begins with the first.
    """
    ordered = sorted(segments, key=lambda s: (s.small, s.stream, s.address))
    for _, stretches in groupby(ordered, key=lambda s: (s.small, s.stream)):
        allocator.adopt(list(_chained(allocator, list(stretches))))
    allocator.reset_peaks()


def _chained(allocator: Allocator, stretches: Sequence[Segment]) -> Iterator[Block]:
    """Blocks of one expandable segment, mapped and not, in order."""
    base = position = stretches[0].address
    for segment in stretches:
        pool = allocator.pool(segment.small, segment.stream)
        if segment.address > position:
            yield Block(position, segment.address - position, pool, mapped=False, base=base)
        for block in _blocks(allocator, segment):
            block.base = base
            yield block
        position = segment.address + segment.size
    pool = allocator.pool(stretches[0].small, stretches[0].stream)
    yield Block(position, MAX_MAPPED, pool, mapped=False, base=base)
