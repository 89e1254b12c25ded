"""Blocks of device memory and the pools that keep the free ones in order."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final


@dataclass(slots=True, eq=False)
class Block:
    """A run of bytes of one segment, in use or free, between its neighbours."""

    # positional, for one is made with nearly every allocation
    address: int
    size: int
    pool: Pool
    mapped: bool = True
    """Whether memory backs it; False only for the rest of an expandable segment."""
    base: int | None = None
    """First address of its expandable segment; None in an ordinary one."""
    prev: Block | None = None
    next: Block | None = None
    free: bool = False
    """Whether it is in its pool."""
    requested: int = 0
    """Bytes that were asked for; 0 while free."""
    freed_at: int = 0
    """Number of the search of the pools after which it was freed; counted for the collector."""

    @property
    def allocated(self) -> bool:
        """Whether it is in use: neither free nor only addresses."""
        return self.mapped and not self.free

    @property
    def is_split(self) -> bool:
        """Whether it is only a part of its segment."""
        return self.prev is not None or self.next is not None


_ADDRESS_BITS: Final = 60


@dataclass(slots=True, eq=False)
class Pool:
    """The free blocks of one stream's small or large allocations, by size and then address.

    torch orders equal sizes by address, since its pull request 183591 by the age of their
    segments first; both are the same where younger segments lie higher.
    """

    small: bool
    stream: int
    kept_rest: int = 0
    """So many bytes behind a request stay with its block; a longer rest is split off."""
    blocks: list[Block] = field(default_factory=list)
    """In order; changed only by `add`, `remove` and `pop`."""
    _keys: list[int] = field(default_factory=list)
    """size · 2⁶⁰ + address of each block: integers are compared faster than pairs."""

    def add(self, block: Block) -> None:
        """Keep a free block."""
        key = block.size << _ADDRESS_BITS | block.address
        index = bisect_left(self._keys, key)
        self._keys.insert(index, key)
        self.blocks.insert(index, block)
        block.free = True

    def remove(self, block: Block) -> None:
        """Take a free block out."""
        index = bisect_left(self._keys, block.size << _ADDRESS_BITS | block.address)
        del self._keys[index], self.blocks[index]
        block.free = False

    def take(self, size: int) -> Block | None:
        """Take out the best fit: the smallest with at least ``size`` bytes, lowest of equals."""
        index = bisect_left(self._keys, size << _ADDRESS_BITS)
        if index == len(self._keys):
            return None
        del self._keys[index]
        block = self.blocks.pop(index)
        block.free = False
        return block

    def pop(self, index: int) -> Block:
        """Take out the block at a place of the order."""
        del self._keys[index]
        block = self.blocks.pop(index)
        block.free = False
        return block

    def first_fit(self, size: int) -> int:
        """Place of the best fit; the number of blocks where there is none."""
        return bisect_left(self._keys, size << _ADDRESS_BITS)

    def free_blocks(self) -> list[Block]:
        """Every free block, in order."""
        return self.blocks.copy()


def link(left: Block | None, right: Block | None) -> None:
    """Make two blocks neighbours."""
    if left is not None:
        left.next = right
    if right is not None:
        right.prev = left


def split(block: Block, size: int) -> Block:
    """Cut the first ``size`` bytes off a block, which keeps the rest."""
    before = block.prev
    head = Block(block.address, size, block.pool, block.mapped, block.base, before, block)
    if before is not None:
        before.next = head
    block.prev = head
    block.address += size
    block.size -= size
    return head


def absorb(block: Block, neighbour: Block) -> None:
    """Grow a block by the neighbour on either side, which ceases to be."""
    if block.prev is neighbour:
        block.address = neighbour.address
        block.prev = before = neighbour.prev
        if before is not None:
            before.next = block
    else:
        block.next = after = neighbour.next
        if after is not None:
            after.prev = block
    block.size += neighbour.size
