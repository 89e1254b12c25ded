"""The CUDA caching allocator, simulated: which blocks, which segments, how much is reserved.

Rules: c10/cuda/CUDACachingAllocator.cpp (`malloc`, `get_free_block`, `should_split`, `free_block`,
`release_cached_blocks`), constants of torch 2.13's AllocatorConfig.h. Replaying recorded traces
gives their addresses and reserved bytes. Not simulated: garbage collection, CUDA graphs' private
pools, `record_stream`, and freeing single oversize blocks before all cached ones.
"""

from __future__ import annotations

from collections.abc import Callable

from willfit.allocator.blocks import Block, Pool, absorb, split
from willfit.allocator.config import AllocatorConfig
from willfit.allocator.expandable import ExpandableSegments
from willfit.allocator.rounding import (
    MIN_BLOCK,
    ROUND_LARGE,
    SMALL_SIZE,
    round_power2,
    segment_bytes,
)
from willfit.units import format_bytes, round_up


class SimulatedOutOfMemory(Exception):  # noqa: N818 -- named after torch.OutOfMemoryError
    """The device had no room, even after every cached segment was given back."""

    def __init__(self, tried_bytes: int, allocator: Allocator) -> None:
        self.tried_bytes = tried_bytes
        self.allocated_bytes = allocator.allocated_bytes
        self.reserved_bytes = allocator.reserved_bytes
        super().__init__(
            f"no room for {format_bytes(tried_bytes)}: {format_bytes(self.allocated_bytes)} are "
            f"allocated and {format_bytes(self.reserved_bytes)} reserved"
        )


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
        new_address: Callable[[int], int] | None = None,
    ) -> None:
        """``capacity_bytes``: what the device gives at most, None without end.

        ``new_address`` gives a new segment of so many bytes its address; by default upwards.
        """
        self.config = config or AllocatorConfig()
        self.capacity_bytes = capacity_bytes
        self.requested_bytes = self.allocated_bytes = self.reserved_bytes = 0
        self.peak_requested_bytes = self.peak_allocated_bytes = self.peak_reserved_bytes = 0
        self.num_retries = 0
        """How often cached segments had to be given back to serve a request."""
        self.pools = {True: Pool(small=True), False: Pool(small=False)}
        self.live: dict[int, Block] = {}
        """Blocks in use by address."""
        self._next_address = ROUND_LARGE
        self._new_address = new_address or self._upwards
        self._expandable = ExpandableSegments(self.config, self.reserve, self._new_address)

    def malloc(self, num_bytes: int, stream: int = 0) -> int:
        """Address of a block for ``num_bytes``; 0 for 0 bytes. May raise `SimulatedOutOfMemory`."""
        if num_bytes == 0:
            return 0
        size = round_power2(num_bytes, self.config.power2_divisions)
        pool = self.pools[size <= SMALL_SIZE]
        block = self._cached(pool, stream, size) or self._from_device(pool, stream, size)
        if block is None:
            self.empty_cache()
            self.num_retries += 1
            block = self._from_device(pool, stream, size)
        if block is None:
            raise SimulatedOutOfMemory(num_bytes, self)
        return self._hand_out(block, size, num_bytes).address

    def free(self, address: int) -> None:
        """Give a block back to its pool, merged with free neighbours; 0 is nothing."""
        if address == 0:
            return
        block = self.live.pop(address)
        self.requested_bytes -= block.requested
        self.allocated_bytes -= block.size
        block.allocated, block.requested = False, 0
        self.merge(block)
        block.pool.add(block)

    def empty_cache(self) -> None:
        """Give back every segment that is free as a whole, and every free page."""
        for pool in self.pools.values():
            for block in pool.free_blocks():
                if block.base is not None:
                    self.reserved_bytes -= self._expandable.unmap(block)
                elif not block.is_split:
                    pool.remove(block)
                    self.reserved_bytes -= block.size

    def reset_peaks(self) -> None:
        """Peaks start again from what is held now."""
        self.peak_requested_bytes = self.requested_bytes
        self.peak_allocated_bytes = self.allocated_bytes
        self.peak_reserved_bytes = self.reserved_bytes

    def reserve(self, num_bytes: int) -> bool:
        """Take memory from the device; False where it has no more."""
        if self.capacity_bytes is not None and (
            self.reserved_bytes + num_bytes > self.capacity_bytes
        ):
            return False
        self.reserved_bytes += num_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return True

    def merge(self, block: Block) -> None:
        """Merge a block that is not in its pool with its free neighbours."""
        for neighbour in (block.prev, block.next):
            if neighbour is not None and not neighbour.allocated and neighbour.mapped:
                block.pool.remove(neighbour)
                absorb(block, neighbour)

    def _cached(self, pool: Pool, stream: int, size: int) -> Block | None:
        """Best fit among the free blocks; an oversize block only for an oversize request."""
        block = pool.best_fit(stream, size)
        if block is not None and block.base is not None:
            block = self._expandable.least_expandable(block)
        limit = self.config.max_split_bytes
        if block is None or (limit is not None and size < limit <= block.size):
            return None
        slack = self.config.max_non_split_rounding_bytes
        if limit is not None and size >= limit and block.size >= size + slack:
            return None
        pool.remove(block)
        return block

    def _from_device(self, pool: Pool, stream: int, size: int) -> Block | None:
        if self.config.expandable_segments:
            return self._expandable.grow(pool, stream, size)
        segment = segment_bytes(size, self.config.large_segment_bytes)
        if not self.reserve(segment):
            return None
        return Block(address=self._new_address(segment), size=segment, stream=stream, pool=pool)

    def _hand_out(self, block: Block, size: int, num_bytes: int) -> Block:
        if self._splits(block, size):
            block, rest = split(block, size)
            block.pool.add(rest)
        block.allocated, block.requested = True, num_bytes
        self.live[block.address] = block
        self.requested_bytes += num_bytes
        self.allocated_bytes += block.size
        self.peak_requested_bytes = max(self.peak_requested_bytes, self.requested_bytes)
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def _splits(self, block: Block, size: int) -> bool:
        """Small and expandable blocks leave any rest; large ones only a rest above 1 MiB."""
        rest = block.size - size
        if block.pool.small or self.config.expandable_segments:
            return rest >= MIN_BLOCK
        limit = self.config.max_split_bytes
        return rest > SMALL_SIZE and (limit is None or size < limit)

    def _upwards(self, num_bytes: int) -> int:
        address = self._next_address
        self._next_address += round_up(num_bytes, ROUND_LARGE)
        return address
