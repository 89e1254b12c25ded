"""Search: where needles stand in a log, of which most lines differ in numbers alone.

``bytes.find`` passes over 1.5 to 10 GB/s, the faster the longer its string, and a compiled
alternation over 0.2 GB/s: one pass a needle would take 200 of them. So lines are first reduced to
their letters. Of a training log some hundred kinds of lines remain, whatever its length, and only
a kind that was not seen before is searched. Needles that a kind may hold are then sought in the
blocks that have it.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from willfit.doctor.reading.anchors import Group, cover

SAME_LINE_BYTES: Final = 4096
"""Further hits in a line are looked for this far on: a line can be the whole source."""
_MOST_KINDS: Final = 50_000
_MOST_KIND_BYTES: Final = 8 << 20
"""What is remembered of kinds of lines; beyond, all are forgotten and learned anew."""
_KEPT: Final = (string.ascii_letters + "\n").encode()
_DROPPED: Final = bytes(code for code in range(256) if code not in _KEPT)
_TELLING: Final = 4
"""Needles with fewer letters are sought everywhere."""


@dataclass
class Search:
    """Finds needles in blocks; learns which lines the source is made of."""

    needles: Sequence[bytes]
    reach: int = field(init=False)
    """Length of the longest needle."""
    _everywhere: set[bytes] = field(init=False)
    _by_letters: dict[bytes, list[bytes]] = field(init=False, default_factory=dict)
    _groups: list[Group] = field(init=False)
    _plain: set[bytes] = field(init=False, default_factory=set)
    """Kinds of lines without needles."""
    _telling: dict[bytes, list[bytes]] = field(init=False, default_factory=dict)
    """Kinds of lines that may hold needles, with those."""
    _known_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        needles = {needle for needle in self.needles if needle}
        for needle in needles:
            self._by_letters.setdefault(needle.translate(None, _DROPPED), []).append(needle)
        few = [letters for letters in self._by_letters if len(letters) < _TELLING]
        self._everywhere = {needle for letters in few for needle in self._by_letters.pop(letters)}
        self._groups = cover(list(self._by_letters))
        self.reach = max(map(len, needles), default=1)

    def hits(self, text: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of needles that end after ``start`` and begin before ``end``, in order.

        The first of each line, and in a long one the next after `SAME_LINE_BYTES`.
        """
        low, high = max(0, start - self.reach), min(len(text), end + self.reach)
        ahead = {
            needle: place
            for needle in self._wanted(text[low:high])
            if (place := text.find(needle, max(0, start - len(needle) + 1), high)) >= 0
        }
        while ahead:
            needle = min(ahead, key=ahead.__getitem__)
            place = ahead[needle]
            if place >= end:
                return
            yield place, place + len(needle)
            newline = text.find(b"\n", place, place + SAME_LINE_BYTES)
            further = newline if newline >= 0 else place + SAME_LINE_BYTES
            for other in [one for one, at in ahead.items() if at < further]:
                ahead[other] = text.find(other, further, high)
                if ahead[other] < 0:
                    del ahead[other]

    def ignore(self, line: bytes) -> None:
        """Take lines with these letters for lines without needles."""
        for part in line.translate(None, _DROPPED).split(b"\n"):
            self._telling.pop(part, None)
            self._plain.add(part)

    def _wanted(self, text: bytes) -> set[bytes]:
        """Needles that the text may hold."""
        kinds = set(text.translate(None, _DROPPED).split(b"\n")) - self._plain
        self._learn(kinds.difference(self._telling))
        wanted = set(self._everywhere)
        for kind in kinds & self._telling.keys():
            wanted.update(self._telling[kind])
        return wanted

    def _learn(self, kinds: set[bytes]) -> None:
        text = b"\n".join(kinds)
        if self._known_bytes > _MOST_KIND_BYTES or len(self._plain) > _MOST_KINDS:
            self._plain, self._telling, self._known_bytes = set(), {}, 0
        self._known_bytes += len(text)
        plain = set(kinds)
        for group in self._groups:
            for letters, telling in group.told(text):
                plain -= telling
                for kind in telling:
                    self._telling.setdefault(kind, []).extend(self._by_letters[letters])
        self._plain |= plain
