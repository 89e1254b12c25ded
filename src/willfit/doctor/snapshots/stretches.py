"""Stretches: what is taken from the device, with events on segments taken back one by one."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, replace

from willfit.allocator.rounding import LARGE_SEGMENT, SMALL_SEGMENT
from willfit.doctor.snapshots.contents import Event, PoolId


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A segment without its blocks; of an expandable one, what is mapped in a row."""

    address: int
    num_bytes: int
    stream: int
    small: bool
    expandable: bool
    pool: PoolId
    guessed: bool = False
    """Whether only an event tells of it, and ``small`` is a guess from its size."""

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.address + self.num_bytes


class Stretches:
    """By address; expandable ones grow and are cut as events that map them are taken back."""

    def __init__(self) -> None:
        self._at: dict[int, Stretch] = {}
        self._starts: list[int] = []
        """Of the expandable ones, in order."""
        self._ends: dict[int, int] = {}
        """Start of an expandable one by its end."""

    def ordered(self) -> list[Stretch]:
        """All, by address."""
        return [self._at[address] for address in sorted(self._at)]

    def add(self, stretch: Stretch) -> None:
        """Put a stretch in, in the place of one that begins there too."""
        self.remove(stretch.address)
        self._at[stretch.address] = stretch
        if stretch.expandable:
            insort(self._starts, stretch.address)
            self._ends[stretch.end] = stretch.address

    def remove(self, address: int) -> Stretch | None:
        """Take the stretch out that begins at an address."""
        stretch = self._at.pop(address, None)
        if stretch is not None and stretch.expandable:
            del self._starts[bisect_right(self._starts, address) - 1]
            self._ends.pop(stretch.end, None)
        return stretch

    def take_back(self, event: Event) -> None:
        """Make one ``segment_…`` event undone."""
        if event.action == "segment_alloc":
            self.remove(event.address)
        elif event.action == "segment_free":
            self.add(_described(event, expandable=False))
        elif event.action == "segment_unmap":
            self._join(_described(event, expandable=True))
        elif event.action == "segment_map":
            self._cut(event.address, event.address + event.num_bytes)

    def _join(self, mapped: Stretch) -> None:
        """What was unmapped is there again, and one with its neighbours."""
        start, end = mapped.address, mapped.end
        neighbours = [
            near
            for near in (self._at.get(self._ends.get(start, -1)), self._at.get(end))
            if near is not None and near.expandable and near.stream == mapped.stream
        ]
        for near in neighbours:
            self.remove(near.address)
            start, end = min(start, near.address), max(end, near.end)
        known = next((near for near in neighbours if not near.guessed), mapped)
        self.add(replace(known, address=start, num_bytes=end - start))

    def _cut(self, start: int, end: int) -> None:
        """What was mapped is gone again, out of the middle of a stretch too."""
        index = bisect_right(self._starts, start) - 1
        whole = self._at[self._starts[index]] if index >= 0 else None
        if whole is None or whole.end < end:
            return
        self.remove(whole.address)
        if start > whole.address:
            self.add(replace(whole, num_bytes=start - whole.address))
        if end < whole.end:
            self.add(replace(whole, address=end, num_bytes=whole.end - end))


def _described(event: Event, *, expandable: bool) -> Stretch:
    """Pages of large blocks are of 20 MiB, of small ones of 2."""
    pages = event.num_bytes % LARGE_SEGMENT if expandable else event.num_bytes <= SMALL_SEGMENT
    return Stretch(
        address=event.address,
        num_bytes=event.num_bytes,
        stream=event.stream,
        small=bool(pages),
        expandable=expandable,
        pool=event.pool,
        guessed=True,
    )
