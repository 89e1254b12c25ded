"""Blocks of device memory and the two pools that keep the free ones in order."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False, kw_only=True)
class Block:
    """A run of bytes of one segment, in use or free, between its neighbours."""

    address: int
    size: int
    stream: int
    pool: Pool
    requested: int = 0
    """Bytes that were asked for; 0 while free."""
    allocated: bool = False
    mapped: bool = True
    """Whether memory backs it; False only for the rest of an expandable segment."""
    base: int | None = None
    """First address of its expandable segment; None in an ordinary one."""
    prev: Block | None = None
    next: Block | None = None

    @property
    def is_split(self) -> bool:
        """Whether it is only a part of its segment."""
        return self.prev is not None or self.next is not None


Key = tuple[int, int, int]


@dataclass(eq=False, kw_only=True)
class Pool:
    """Free blocks of small or of large allocations, ordered by stream, size and address."""

    small: bool
    _keys: list[Key] = field(default_factory=list)
    _blocks: dict[Key, Block] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """Keep a free block."""
        key = (block.stream, block.size, block.address)
        insort(self._keys, key)
        self._blocks[key] = block

    def remove(self, block: Block) -> None:
        """Take a free block out."""
        key = (block.stream, block.size, block.address)
        del self._keys[bisect_left(self._keys, key)]
        del self._blocks[key]

    def best_fit(self, stream: int, size: int) -> Block | None:
        """The smallest free block of this stream with at least ``size`` bytes, lowest first."""
        index = bisect_left(self._keys, (stream, size, 0))
        if index < len(self._keys) and self._keys[index][0] == stream:
            return self._blocks[self._keys[index]]
        return None

    def after(self, block: Block) -> Block | None:
        """The next larger free block of the same stream."""
        index = bisect_left(self._keys, (block.stream, block.size, block.address)) + 1
        if index < len(self._keys) and self._keys[index][0] == block.stream:
            return self._blocks[self._keys[index]]
        return None

    def free_blocks(self) -> list[Block]:
        """Every free block, in order."""
        return [self._blocks[key] for key in self._keys]


def link(left: Block | None, right: Block | None) -> None:
    """Make two blocks neighbours."""
    if left is not None:
        left.next = right
    if right is not None:
        right.prev = left


def split(block: Block, size: int) -> tuple[Block, Block]:
    """Cut a block in two: the first ``size`` bytes and the rest; ``block`` becomes the rest."""
    head = Block(
        address=block.address,
        size=size,
        stream=block.stream,
        pool=block.pool,
        mapped=block.mapped,
        base=block.base,
    )
    link(block.prev, head)
    link(head, block)
    block.address += size
    block.size -= size
    return head, block


def absorb(block: Block, neighbour: Block) -> None:
    """Grow a block by the neighbour on either side, which ceases to be."""
    if block.prev is neighbour:
        block.address = neighbour.address
        link(neighbour.prev, block)
        if neighbour.prev is None:
            block.prev = None
    else:
        link(block, neighbour.next)
    block.size += neighbour.size
