"""The CUDA caching allocator, simulated: which blocks, which segments, how much is reserved.

Rules: c10/cuda/CUDACachingAllocator.cpp (`malloc`, `get_free_block`, `alloc_block`, `should_split`,
`free_block`, `release_cached_blocks`), constants of torch 2.13's AllocatorConfig.h. Replaying
recorded traces gives their addresses and reserved bytes. Not simulated: CUDA graphs' private
pools, `record_stream`, callbacks that free memory, and the asynchronous backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from willfit.allocator.blocks import Block, Pool, absorb, link, split
from willfit.allocator.config import AllocatorConfig
from willfit.allocator.device import DeviceMemory
from willfit.allocator.expandable import ExpandableSegments, least_expandable
from willfit.allocator.message import GpuProcess, OutOfMemory, out_of_memory_message
from willfit.allocator.pressure import aged, oversize
from willfit.allocator.rounding import (
    MIN_BLOCK,
    ROUND_LARGE,
    SMALL_SIZE,
    round_power2,
    segment_bytes,
    size_class,
)
from willfit.units import round_up


class SimulatedOutOfMemory(Exception):  # noqa: N818 -- named after torch.OutOfMemoryError
    """The device had no room, even after everything cached that could be was given back.

    Its text is torch's; ``state`` has the numbers.
    """

    def __init__(self, state: OutOfMemory) -> None:
        self.state = state
        super().__init__(out_of_memory_message(state))


class Allocator:
    """One device's allocator. Addresses are handles: `malloc` gives one, `free` takes it back.

    >>> allocator = Allocator()
    >>> address = allocator.malloc(3 * 2**20)  # 1 to 10 MiB come from segments of 20 MiB
    >>> allocator.allocated_bytes // 2**20, allocator.reserved_bytes // 2**20
    (3, 20)
    """

    def __init__(
        self,
        config: AllocatorConfig | None = None,
        *,
        capacity_bytes: int | None = None,
        total_bytes: int | None = None,
        new_address: Callable[[int], int] | None = None,
        mapping: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """``capacity_bytes``: what the device gives at most, None without end.

        ``total_bytes``: its whole memory, of which per_process_memory_fraction is a share; the
        capacity where it is not given. ``new_address`` gives a new segment of so many bytes its
        address; by default upwards. ``mapping`` hears of the pages of expandable segments.
        """
        self.config = config = config or AllocatorConfig()
        self.device = DeviceMemory(config, capacity_bytes, total_bytes)
        self.requested_bytes = self.allocated_bytes = 0
        self.peak_requested_bytes = self.peak_allocated_bytes = 0
        self.num_retries = 0
        """How often cached segments had to be given back to serve a request."""
        self.pools: dict[tuple[bool, int], Pool] = {}
        """Free blocks by whether they are small and by stream."""
        self.live: dict[int, Block] = {}
        """Blocks in use by address."""
        self._next_address = ROUND_LARGE
        self._new_address = new_address or self._upwards
        self._expandable = ExpandableSegments(config, self.device.take, self._new_address, mapping)
        self._oversize = None if config.expandable_segments else config.max_split_bytes
        """Blocks of requests from this size on stay whole."""
        self._takes_best_fit = not config.expandable_segments and config.max_split_bytes is None
        self._searches = 0
        """How often large pools were searched: the garbage collector's clock."""

    @property
    def reserved_bytes(self) -> int:
        """Taken from the device: allocated and cached."""
        return self.device.reserved_bytes

    @property
    def peak_reserved_bytes(self) -> int:
        """The most that was reserved since the start or `reset_peaks`."""
        return self.device.peak_reserved_bytes

    def malloc(self, num_bytes: int, stream: int = 0) -> int:
        """Address of a block for ``num_bytes``; 0 for 0 bytes. May raise `SimulatedOutOfMemory`."""
        # one long function, and `free` too: a trace has a million of them
        if num_bytes == 0:
            return 0
        divisions = self.config.power2_divisions
        if divisions:
            size = round_power2(num_bytes, divisions[size_class(num_bytes)])
        else:
            size = (num_bytes + MIN_BLOCK - 1) // MIN_BLOCK * MIN_BLOCK
        pool = self.pools.get((size <= SMALL_SIZE, stream)) or self.pool(size <= SMALL_SIZE, stream)
        if not pool.small:
            self._searches += 1
        block = pool.take(size) if self._takes_best_fit else self._cached(pool, size)
        if block is None:
            block = self._from_device(pool, size, num_bytes)
        if block.size - size > pool.kept_rest and (self._oversize is None or size < self._oversize):
            rest, block = block, split(block, size)
            pool.add(rest)
        block.requested = num_bytes
        self.live[block.address] = block
        self.requested_bytes += num_bytes
        self.allocated_bytes += block.size
        if self.requested_bytes > self.peak_requested_bytes:
            self.peak_requested_bytes = self.requested_bytes
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return block.address

    def free(self, address: int) -> None:
        """Give a block back to its pool, merged with free neighbours; 0 is nothing."""
        if address == 0:
            return
        block = self.live.pop(address)
        self.requested_bytes -= block.requested
        self.allocated_bytes -= block.size
        block.requested = 0
        block.freed_at = self._searches
        pool, before, after = block.pool, block.prev, block.next
        if before is not None and before.free:
            pool.remove(before)
            absorb(block, before)
        if after is not None and after.free:
            pool.remove(after)
            absorb(block, after)
        pool.add(block)

    def empty_cache(self) -> None:
        """Give back every segment that is free as a whole, and every free page."""
        for pool in self.pools.values():
            for block in pool.free_blocks():
                if block.base is not None:
                    self.device.give_back(self._expandable.unmap(block))
                elif not block.is_split:
                    self._release(block)

    def adopt(self, blocks: Sequence[Block]) -> None:
        """Know of an expandable segment that was there before, given as its blocks in order."""
        for before, block in zip([None, *blocks], blocks, strict=False):
            link(before, block)
            if not block.mapped:
                self._expandable.adopt(block)
                continue
            self.device.take(block.size)
            if block.requested:
                self.live[block.address] = block
                self.requested_bytes += block.requested
                self.allocated_bytes += block.size
            else:
                block.pool.add(block)

    def reset_peaks(self) -> None:
        """Peaks start again from what is held now."""
        self.peak_requested_bytes = self.requested_bytes
        self.peak_allocated_bytes = self.allocated_bytes
        self.device.peak_reserved_bytes = self.reserved_bytes

    def pool(self, small: bool, stream: int) -> Pool:
        """The free blocks of a stream's small or large allocations."""
        kept_rest = 0 if small or self.config.expandable_segments else SMALL_SIZE
        return self.pools.setdefault((small, stream), Pool(small, stream, kept_rest))

    def _cached(self, pool: Pool, size: int) -> Block | None:
        """Best fit; an oversize block only for an oversize request that nearly fills it."""
        index = pool.first_fit(size)
        if index == len(pool.blocks):
            return None
        if self.config.expandable_segments:
            index = least_expandable(pool.blocks, index)
        limit = self.config.max_split_bytes
        if limit is not None:
            slack = self.config.max_non_split_rounding_bytes
            if pool.blocks[index].size >= (limit if size < limit else size + slack):
                return None
        return pool.pop(index)

    def _from_device(self, pool: Pool, size: int, num_bytes: int) -> Block:
        """New memory; where there is none, what is cached is given back for it."""
        self._collect_garbage()
        tried = segment_bytes(size, self.config.large_segment_bytes)
        block = self._new(pool, size, tried)
        if block is None and not self.device.rejects(tried):
            block = self._retried(pool, size, tried)
        if block is None:
            raise SimulatedOutOfMemory(self._state(tried, num_bytes))
        return block

    def _new(self, pool: Pool, size: int, tried: int) -> Block | None:
        if not self.device.admits(tried):
            return None
        if self.config.expandable_segments:
            return self._expandable.grow(pool, size)
        return Block(self._new_address(tried), tried, pool) if self.device.take(tried) else None

    def _retried(self, pool: Pool, size: int, tried: int) -> Block | None:
        """Again in the place of oversize blocks, and again without anything that is cached."""
        if self._release_oversize(pool, size):
            block = self._new(pool, size, tried)
            if block is not None:
                return block
        self.empty_cache()
        self.num_retries += 1
        return self._new(pool, size, tried)

    def _collect_garbage(self) -> None:
        """Give back what has long been unused, where more than the threshold is reserved."""
        excess = self.device.excess_bytes()
        if excess > 0:
            large = (pool for pool in self.pools.values() if not pool.small)
            blocks = [block for pool in large for block in pool.blocks]
            for block in aged(blocks, self._searches, excess):
                self._release(block)

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """Give back unsplittable blocks in place of a request; False where that is not enough."""
        if self._oversize is None:
            return False
        blocks = oversize(pool.blocks, size, self._oversize)
        for block in blocks:
            self._release(block)
        return sum(block.size for block in blocks) >= size

    def _release(self, block: Block) -> None:
        block.pool.remove(block)
        self.device.give_back(block.size)

    def _state(self, tried: int, num_bytes: int) -> OutOfMemory:
        """What lies outside the capacity counts as this process's own: its CUDA context."""
        total, free = self.device.total_bytes, self.device.free_bytes()
        assert total is not None  # nothing fails without a limit
        return OutOfMemory(
            tried_bytes=tried,
            requested_bytes=num_bytes,
            total_bytes=total,
            free_bytes=free,
            allocated_bytes=self.allocated_bytes,
            reserved_bytes=self.reserved_bytes,
            allowed_bytes=self.device.allowed_bytes,
            processes=(GpuProcess(pid=None, used_bytes=total - free),),
            num_retries=self.num_retries,
            rejected_early=self.device.rejects(tried),
        )

    def _upwards(self, num_bytes: int) -> int:
        address = self._next_address
        self._next_address += round_up(num_bytes, ROUND_LARGE)
        return address
