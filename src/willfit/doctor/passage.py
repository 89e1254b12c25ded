"""Passage: a stretch of text around a failure, cleaned, with who wrote which line."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line without colours, timestamps and prefixes."""

    number: int
    """In the source, from 1."""
    text: str
    speaker: str = ""
    """Who wrote it, where a prefix tells: ``rank0``, ``EngineCore_DP0 pid=270``."""


@dataclass(frozen=True)
class Flat:
    """Lines of one speaker as one text: words of a message stand together however it was wrapped.

    Lines are joined by single spaces and runs of white space are one space, so that a pattern
    needs no more than the words of a message.
    """

    lines: Sequence[Line]
    origins: frozenset[str] = frozenset()
    """Programs that wrote the passage, as prefixes tell: ``vllm``, ``ray``, ``ollama``, ``tgi``."""

    @cached_property
    def _parts(self) -> tuple[str, list[int]]:
        words: list[str] = []
        starts: list[int] = []
        position = 0
        for line in self.lines:
            text = " ".join(line.text.split())
            starts.append(position)
            words.append(text)
            position += len(text) + 1
        return " ".join(words), starts

    @property
    def text(self) -> str:
        """All lines joined."""
        return self._parts[0]

    def line_at(self, offset: int) -> Line:
        """The line that holds the character at ``offset`` of `text`."""
        return self.lines[self.index_at(offset)]

    def index_at(self, offset: int) -> int:
        """Index in `lines` of the line that holds the character at ``offset`` of `text`."""
        return max(0, bisect_right(self._parts[1], offset) - 1)

    def start_of(self, index: int) -> int:
        """Offset in `text` of the line with that index in `lines`."""
        return self._parts[1][index]


@dataclass(frozen=True)
class Passage:
    """Cleaned lines around one or more failures."""

    lines: Sequence[Line]
    """In the order of the source."""
    origins: frozenset[str] = frozenset()

    def flats(self) -> Iterator[Flat]:
        """One text a speaker, in the order in which they first speak; then all lines in one.

        The last is for messages whose first line alone has a prefix; what it gives that a
        speaker's own text gave before is the same report.
        """
        spoken: dict[str, list[Line]] = {}
        for line in self.lines:
            spoken.setdefault(line.speaker, []).append(line)
        for lines in spoken.values() if len(spoken) > 1 else ():
            yield Flat(lines, self.origins)
        if self.lines:
            yield Flat(self.lines, self.origins)
