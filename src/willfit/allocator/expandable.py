"""Expandable segments: one range of addresses a pool and stream, mapped page by page.

Rules: c10/cuda/CUDACachingAllocator.cpp (`find_expandable_block`, `map_block`, `unmap_block`):
pages of 2 MiB for small and of 20 MiB for large allocations, lowest gap first.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from willfit.allocator.blocks import Block, Pool, absorb, split
from willfit.allocator.config import AllocatorConfig
from willfit.allocator.rounding import SMALL_SEGMENT
from willfit.units import round_up

MAX_MAPPED: Final = 10 * 2**40
"""Range of one segment: torch takes 9/8 of the device; any range above the device serves."""


class ExpandableSegments:
    """The unmapped rest of every expandable segment, and how it is mapped."""

    def __init__(
        self,
        config: AllocatorConfig,
        reserve: Callable[[int], bool],
        new_address: Callable[[int], int],
        mapping: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """``mapping`` hears of pages: ``segment_map`` or ``segment_unmap``, address, bytes."""
        self._config = config
        self._reserve = reserve
        self._new_address = new_address
        self._mapping = mapping or (lambda *_: None)
        self._unmapped: list[Block] = []

    def grow(self, pool: Pool, size: int) -> Block | None:
        """A free block of at least ``size``, mapping what is missing; None without memory."""
        block: Block | None = self._candidate(pool, size)
        if block is not None and not block.mapped:
            block = self._map(block, min(block.size, size))
        while block is not None and block.size < size:
            gap = block.next
            assert gap is not None  # the candidate was chosen so that the range suffices
            block = self._map(gap, min(gap.size, size - block.size))
        if block is not None:
            pool.remove(block)
        return block

    def adopt(self, gap: Block) -> None:
        """Know of an unmapped part that was there before."""
        insort(self._unmapped, gap, key=lambda other: other.address)

    def unmap(self, block: Block) -> int:
        """Bytes given back: the whole pages inside a free block, which leave its pool."""
        assert block.base is not None
        page = self._page(block.pool)
        start = block.base + round_up(block.address - block.base, page)
        end = block.base + (block.address + block.size - block.base) // page * page
        if end <= start:
            return 0
        block.pool.remove(block)
        if start > block.address:
            block.pool.add(split(block, start - block.address))
        if block.address + block.size > end:
            tail = block
            block = split(tail, end - tail.address)
            block.pool.add(tail)
        block.mapped = False
        for neighbour in (block.prev, block.next):
            if neighbour is not None and not neighbour.mapped:
                self._unmapped.remove(neighbour)
                absorb(block, neighbour)
        insort(self._unmapped, block, key=lambda gap: gap.address)
        self._mapping("segment_unmap", start, end - start)
        return end - start

    def _candidate(self, pool: Pool, size: int) -> Block:
        """The lowest gap that, with a free block before it, has addresses enough."""
        for gap in self._unmapped:
            if gap.pool is pool:
                before = gap.prev
                start = before if before is not None and not before.allocated else gap
                if sum(block.size for block in _free_run(start)) >= size:
                    return start
        base = self._new_address(MAX_MAPPED)
        gap = Block(base, MAX_MAPPED, pool, mapped=False, base=base)
        insort(self._unmapped, gap, key=lambda other: other.address)
        return gap

    def _map(self, gap: Block, size: int) -> Block | None:
        """Map the first pages of a gap, and merge them with free neighbours."""
        mapped = min(round_up(size, self._page(gap.pool)), gap.size)
        if not self._reserve(mapped):
            return None
        if mapped < gap.size:
            block = split(gap, mapped)
        else:
            self._unmapped.remove(gap)
            block = gap
        block.mapped = True
        self._mapping("segment_map", block.address, block.size)
        for neighbour in (block.prev, block.next):
            if neighbour is not None and neighbour.free:
                block.pool.remove(neighbour)
                absorb(block, neighbour)
        block.pool.add(block)
        return block

    def _page(self, pool: Pool) -> int:
        return SMALL_SEGMENT if pool.small else self._config.large_segment_bytes


def least_expandable(blocks: Sequence[Block], index: int) -> int:
    """Place of the block that could grow least, as best fit counts, from a place on upwards."""
    for following in range(index + 1, len(blocks)):
        if _reach(blocks[following]) >= _reach(blocks[index]):
            break
        index = following
    return index


def _free_run(block: Block | None) -> Iterator[Block]:
    while block is not None and not block.allocated:
        yield block
        block = block.next


def _reach(block: Block) -> int:
    """What a block could grow to: its size and the unmapped rest right behind it."""
    gap = block.next
    return block.size + (gap.size if gap is not None and not gap.mapped else 0)
