"""The caching allocator's rules of rounding (torch/include/c10/core/AllocatorConfig.h, 2.13)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from willfit.units import MIB, ceil_div, round_up

MIN_BLOCK: Final = 512
"""kMinBlockSize: every allocation is rounded up to a multiple of it."""
SMALL_SIZE: Final = MIB
"""kSmallSize: allocations up to it come from the small pool."""
SMALL_SEGMENT: Final = 2 * MIB
"""kSmallBuffer: a segment of the small pool."""
LARGE_SEGMENT: Final = 20 * MIB
"""kLargeBuffer: a segment for allocations above 1 MiB and below 10 MiB."""
MIN_LARGE: Final = 10 * MIB
"""kMinLargeAlloc: from here on an allocation gets a segment of its own…"""
ROUND_LARGE: Final = 2 * MIB
"""kRoundLarge: …rounded up to a multiple of this."""


def round_block(num_bytes: int) -> int:
    """Bytes that a tensor of ``num_bytes`` takes in ``memory_allocated``; 0 takes none."""
    return round_up(num_bytes, MIN_BLOCK)


def segment_bytes(block_bytes: int) -> int:
    """Bytes that the allocator takes from the device when no free block serves."""
    if block_bytes <= SMALL_SIZE:
        return SMALL_SEGMENT
    if block_bytes < MIN_LARGE:
        return LARGE_SEGMENT
    return round_up(block_bytes, ROUND_LARGE)


def reserved_bytes(sizes: Iterable[tuple[int, int]]) -> int:
    """Reserved bytes of (size, count) tensors that are all kept, allocated one after the other.

    Blocks that share segments are packed as tightly as their pool allows: an estimate from below
    that is at most one segment a pool and the ends of segments short of the simulated allocator.
    """
    small = medium = own = 0
    for size, count in sizes:
        block = round_block(size)
        if block <= SMALL_SIZE:
            small += block * count
        elif block < MIN_LARGE:
            per_segment = LARGE_SEGMENT // block
            medium += ceil_div(count * LARGE_SEGMENT, per_segment) if count else 0
        else:
            own += round_up(block, ROUND_LARGE) * count
    return round_up(small, SMALL_SEGMENT) + round_up(medium, LARGE_SEGMENT) + own
