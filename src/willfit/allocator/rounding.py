"""The caching allocator's rules of rounding, and what tensors that are all kept make it reserve.

Constants: torch 2.13 include/c10/core/AllocatorConfig.h.
"""

from __future__ import annotations

from collections import Counter
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
"""large_segment_size: a segment for allocations above 1 MiB and below 10 MiB."""
MIN_LARGE: Final = 10 * MIB
"""kMinLargeAlloc: from here on an allocation gets a segment of its own…"""
ROUND_LARGE: Final = 2 * MIB
"""kRoundLarge: …rounded up to a multiple of this."""

SIZE_CLASSES: Final = 16
"""Entries of roundup_power2_divisions: up to 2 MiB, up to 4 MiB, …, from 32 GiB on."""


def round_block(num_bytes: int) -> int:
    """Bytes that a tensor of ``num_bytes`` takes in ``memory_allocated``; 0 takes none."""
    return round_up(num_bytes, MIN_BLOCK)


def round_power2(num_bytes: int, divisions: int) -> int:
    """`round_block`, or with ``roundup_power2_divisions`` a multiple of 2^⌊log₂ n⌋/divisions.

    CUDACachingAllocator.cpp `round_size`, `roundup_power2_next_division`; sizes up to
    512·divisions bytes are rounded as ever.
    """
    if divisions <= 1 or num_bytes <= MIN_BLOCK * divisions:
        return round_block(num_bytes)
    step = 1 << (num_bytes.bit_length() - 1) >> (divisions.bit_length() - 1)
    return round_up(num_bytes, step)


def size_class(num_bytes: int) -> int:
    """Which of the `SIZE_CLASSES` a size belongs to: ⌊log₂ MiB⌋, at least 0 and at most 15."""
    return min(max(num_bytes.bit_length() - MIB.bit_length(), 0), SIZE_CLASSES - 1)


def segment_bytes(block_bytes: int, large_segment_bytes: int = LARGE_SEGMENT) -> int:
    """Bytes that the allocator takes from the device when no free block serves."""
    if block_bytes <= SMALL_SIZE:
        return SMALL_SEGMENT
    if block_bytes < MIN_LARGE:
        return large_segment_bytes
    return round_up(block_bytes, ROUND_LARGE)


def reserved_bytes(sizes: Iterable[tuple[int, int]], *, expandable: bool = False) -> int:
    """Reserved bytes of (size, count) tensors, allocated in this order and all kept.

    Exact for that order: equal tensors fill the smallest free rest that takes them, then new
    segments, ⌊segment/block⌋ each. With expandable segments, each pool's sum in whole pages.
    """
    blocks = [(round_block(size), count) for size, count in sizes]
    small = [pair for pair in blocks if pair[0] <= SMALL_SIZE]
    large = [pair for pair in blocks if pair[0] > SMALL_SIZE]
    if expandable:
        return round_up(_total(small), SMALL_SEGMENT) + round_up(_total(large), LARGE_SEGMENT)
    return _packed(small) + _packed(large)


def _total(blocks: Iterable[tuple[int, int]]) -> int:
    return sum(size * count for size, count in blocks)


def _packed(blocks: Iterable[tuple[int, int]]) -> int:
    """Segments that one pool takes for blocks that stay."""
    reserved = 0
    rests: Counter[int] = Counter()
    for size, count in blocks:
        count = _fill_rests(rests, size, count) if size else 0
        if count:
            segment = segment_bytes(size)
            each, rest = _fill(segment, size)
            reserved += ceil_div(count, each) * segment
            _add(rests, rest, count // each)
            _add(rests, _rest(segment, size, count % each), bool(count % each))
    return reserved


def _fill_rests(rests: Counter[int], size: int, count: int) -> int:
    """Put blocks of one size into free rests, the smallest that fits first; how many are left."""
    for rest in sorted(rest for rest in rests if rest >= size):
        each, left = _fill(rest, size)
        whole = min(rests[rest], count // each)
        _move(rests, rest, left, whole)
        count -= whole * each
        if rests[rest] and count:
            _move(rests, rest, _rest(rest, size, count), 1)
            count = 0
    return count


def _move(rests: Counter[int], old: int, new: int, number: int) -> None:
    rests[old] -= number
    if not rests[old]:
        del rests[old]
    _add(rests, new, number)


def _add(rests: Counter[int], rest: int, number: int) -> None:
    if rest and number:
        rests[rest] += number


def _fill(room: int, size: int) -> tuple[int, int]:
    """How many blocks of one size a free block takes, and the free rest."""
    each = room // size
    return each, _rest(room, size, each)


def _rest(room: int, size: int, number: int) -> int:
    """Free bytes behind ``number`` blocks; a large block keeps a rest of up to 1 MiB."""
    rest = room - number * size
    return 0 if size > SMALL_SIZE and rest <= SMALL_SIZE else rest
