"""Stretches: the bytes around needles, with their line numbers, from a source of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from willfit.doctor.reading.blocks import Source, blocks
from willfit.doctor.reading.repeats import Repeats
from willfit.doctor.reading.search import Search

WHOLE_BYTES: Final = 1 << 20
"""A source below this is one stretch."""
BEFORE_BYTES: Final = 64 << 10
BEFORE_LINES: Final = 400
"""What is kept before a needle: a traceback of compiled code has some 200 frames."""
AFTER_BYTES: Final = 16 << 10
STRETCH_BYTES: Final = 256 << 10
"""Stretches that touch are one up to this."""


@dataclass(frozen=True)
class Stretch:
    """Whole lines of a source; cut within a line only where that has no end in reach."""

    text: bytes
    first_line: int
    """Number of its first line, from 1."""


@dataclass
class Stretches:
    """Reads a source once, block by block, holding two blocks at most."""

    source: Source
    needles: Sequence[bytes]
    repeats: Repeats = field(init=False, default_factory=Repeats)
    _search: Search | None = field(init=False, default=None)
    """None as long as the source may be a small one."""
    _text: bytes = field(init=False, default=b"")
    _known: tuple[int, int] = field(init=False, default=(0, 1))
    """A place in ``_text`` and the number of its line: counting goes on from there."""
    _after: int = field(init=False, default=0)
    """End of the last line with a needle."""
    _counted_to: int = field(init=False, default=0)
    """End of the last line that was counted and not read: no stretch reaches before it."""

    def __iter__(self) -> Iterator[Stretch]:
        searched = 0
        for block in blocks(self.source):
            self._text += self.repeats.without_often(block)
            if len(self._text) < WHOLE_BYTES and self._search is None:
                continue
            self._search = self._search or Search(self.needles)
            limit = max(searched, len(self._text) - AFTER_BYTES)
            yield from self._around(self._search.hits(self._text, searched, limit))
            searched = limit - self._forget(limit - BEFORE_BYTES)
        if self._search is not None:
            yield from self._around(self._search.hits(self._text, searched, len(self._text)))
        elif self._text:
            yield Stretch(self._text, 1)

    def _forget(self, num_bytes: int) -> int:
        """Drop what no later stretch can hold; how much that is."""
        gone = self._text.rfind(b"\n", 0, max(0, num_bytes)) + 1 or max(0, num_bytes)
        self._known = (0, self._line_at(gone))
        self._text = self._text[gone:]
        self._counted_to = max(0, self._counted_to - gone)
        self._after = max(0, self._after - gone)
        return gone

    def _line_at(self, place: int) -> int:
        known, number = self._known
        if place < known:
            return number - self._text.count(b"\n", place, known)
        self._known = (place, number + self._text.count(b"\n", known, place))
        return self._known[1]

    def _around(self, hits: Iterable[tuple[int, int]]) -> Iterator[Stretch]:
        begin = end = 0
        for place, needle_end in hits:
            if place < self._after:
                continue
            start, self._after = self._line_around(place, needle_end)
            if not self._is_read(start, place, end):
                # what is counted is not read as well
                end = min(end, start) if self._after > end else end
                continue
            low, high = self._bounds(start)
            if end and (low > end or high - begin > STRETCH_BYTES):
                yield self._stretch(begin, end)
                end = 0
            begin, end = (begin if end else low), high
        if end:
            yield self._stretch(begin, end)

    def _line_around(self, place: int, needle_end: int) -> tuple[int, int]:
        """Begin and end of the line of a hit, as far as a stretch reaches."""
        low = max(self._after, place - BEFORE_BYTES)
        newline = self._text.find(b"\n", needle_end, place + AFTER_BYTES)
        end = newline + 1 if newline >= 0 else min(len(self._text), place + AFTER_BYTES)
        return max(low, self._text.rfind(b"\n", low, place) + 1), end

    def _is_read(self, start: int, place: int, end: int) -> bool:
        """Whether a line is read; where not, and outside what is read, it is counted."""
        key = self.repeats.key(self._text, start, place, self._after)
        if self.repeats.is_read(key):
            self.repeats.read(key, self._line_at(start))
            return True
        line = self._text[start : self._after]
        if self._after > end and self.repeats.count(key, line):
            self._counted_to = self._after
        elif self._search is not None and self.repeats.is_noise(key):
            self._search.ignore(line)
        return False

    def _bounds(self, start: int) -> tuple[int, int]:
        """Of a stretch around the line that begins there and ends at ``_after``."""
        ceiling = min(len(self._text), self._after + AFTER_BYTES)
        if ceiling < len(self._text):
            ceiling = max(self._after, self._text.rfind(b"\n", self._after, ceiling) + 1)
        return self._lines_before(start), ceiling

    def _lines_before(self, start: int) -> int:
        floor = max(self._counted_to, start - BEFORE_BYTES)
        low = start
        for _ in range(BEFORE_LINES):
            newline = self._text.rfind(b"\n", floor, max(floor, low - 1))
            if newline < 0:
                # half a line would be read as a message that was cut off
                return floor if self._text[floor - 1 : floor] in (b"", b"\n") else low
            low = newline + 1
        return low

    def _stretch(self, begin: int, end: int) -> Stretch:
        self.repeats.num_read += end - begin
        return Stretch(self._text[begin:end], self._line_at(begin))
