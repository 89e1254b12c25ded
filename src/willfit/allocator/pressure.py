"""What the allocator gives back to the device when it has to, short of everything cached.

Rules: c10/cuda/CUDACachingAllocator.cpp `garbage_collect_cached_blocks` and
`release_available_cached_blocks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from willfit.allocator.blocks import Block


def aged(blocks: Iterable[Block], searches: int, target_bytes: int) -> list[Block]:
    """Whole free segments that the collector takes, of blocks in the large pools.

    A block's age is how many searches of those pools it has been free for. In rounds, all of at
    least the mean age go, until ``target_bytes`` are reached; a round is never cut short.
    """
    left = [block for block in blocks if not block.is_split and block.base is None]
    found: list[Block] = []
    while left and sum(block.size for block in found) < target_bytes:
        mean = sum(searches - block.freed_at for block in left) / len(left)
        found += [block for block in left if searches - block.freed_at >= mean]
        left = [block for block in left if searches - block.freed_at < mean]
    return found


def oversize(blocks: Sequence[Block], size: int, limit_bytes: int) -> list[Block]:
    """Free blocks that max_split_size_mb keeps whole, to go for a request; may be too few.

    The one that fits best, or the largest until they add up. ``blocks`` are a pool's, by size; none
    below the limit serves the request, or it would have been handed out.
    """
    fitting = next((block for block in blocks if block.size >= size), None)
    if fitting is not None:
        return [fitting]
    found: list[Block] = []
    for block in reversed(blocks):
        if block.size < limit_bytes or sum(other.size for other in found) >= size:
            break
        found.append(block)
    return found
