"""Repeats: which lines of a log that says the same a million times are worth reading."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

READ_EQUAL: Final = 3
"""Of equal lines so many are read, the others counted."""
READ_ALIKE: Final = 300
"""Of lines that differ in digits alone so many are read."""
MOST_ALIKE: Final = 10_000
"""After so many more, such lines are not looked for."""
READ_BYTES: Final = 32 << 20
"""After this much only lines unlike all before are read, after twice as much none."""
MOST_KINDS: Final = 20_000
"""Kinds of lines that are told apart."""
_HEAD_BYTES: Final = 160
_TAIL_BYTES: Final = 400
"""What is compared of a line, before the needle and from it on."""
_TIMES: Final = re.compile(rb"\d{1,9}(?:[-:/T.,]\d{1,9}){2,8}Z?")
"""Dates and times: what differs between lines that say the same."""
_NOBODY: Final = re.compile(rb"[\[(]?[A-Z]{0,9}[\s|\[]{0,4}(?:\d\d-\d\d )?")
"""What may stand before the time without telling who wrote the line."""
_COUNTERS: Final = re.compile(rb"\d{1,12}(?![\d.,]|\s?(?:[KMGT]i?B|bytes))")
"""Steps, processes, line numbers: what differs in front of a message that is the same."""
_SEEN_OFTEN: Final = 64
"""Equal lines, after which such lines are taken out of the text before it is searched."""
_MOST_OFTEN: Final = 8
_LONG_ENOUGH: Final = 40
"""Bytes that two messages do not have in common by chance."""
_DIGITS: Final = b"0123456789"
_SEAM: Final = b"\0"
"""Between what stands before the needle and the rest; no text holds it any more."""


@dataclass
class Repeats:
    """Counts lines by what they say."""

    more: Counter[int] = field(default_factory=Counter)
    """Lines that were not read, by the number of the first that said the same."""
    num_read: int = 0
    """Bytes read."""
    _seen: dict[bytes, list[int]] = field(default_factory=dict)
    """Number of the first such line, and how many were read."""
    _often: dict[bytes, int] = field(default_factory=dict)
    """Ends of lines that stand everywhere, with the number of the first."""
    _rough: dict[bytes, int] = field(default_factory=dict)
    """Number of the first line, by its key without counters."""
    _alike: Counter[bytes] = field(default_factory=Counter)

    def key(self, text: bytes, start: int, place: int, end: int) -> bytes:
        """What a line says, without the time; ``place`` is the needle's."""
        head = _TIMES.sub(b"", text[max(start, place - _HEAD_BYTES) : place])
        return head + _SEAM + text[place : min(end, place + _TAIL_BYTES)].rstrip()

    def is_read(self, key: bytes) -> bool:
        """Whether one more of such lines is to be read."""
        seen = self._seen.get(key)
        if seen is not None:
            return seen[1] < READ_EQUAL and self.num_read <= 2 * READ_BYTES
        most = READ_ALIKE if self.num_read <= READ_BYTES else 1
        return (
            self._alike[key.translate(None, _DIGITS)] < most
            and len(self._seen) < MOST_KINDS
            and self.num_read <= 2 * READ_BYTES
        )

    def read(self, key: bytes, line: int) -> None:
        """Note a line that is read, by its number."""
        self._seen.setdefault(key, [line, 0])[1] += 1
        self._alike[key.translate(None, _DIGITS)] += 1
        self._rough.setdefault(_rough(key), line)

    def count(self, key: bytes, whole: bytes) -> bool:
        """Count a line that is not read; False where none before said the same."""
        seen = self._seen.get(key)
        line = seen[0] if seen is not None else self._rough.get(_rough(key))
        if line is None:
            self._alike[key.translate(None, _DIGITS)] += 1
            return False
        self.more[line] += 1
        if seen is not None:
            seen[1] += 1
            if seen[1] == _SEEN_OFTEN and len(self._often) < _MOST_OFTEN:
                self._note_often(whole, line)
        return True

    def is_noise(self, key: bytes) -> bool:
        """Whether so many such lines were neither read nor counted that none will be."""
        return self._alike[key.translate(None, _DIGITS)] > MOST_ALIKE

    def _note_often(self, whole: bytes, line: int) -> None:
        """What follows the time in a line that stands everywhere, or the whole line."""
        times = list(_TIMES.finditer(whole[:_HEAD_BYTES]))
        words = whole[times[-1].end() :] if times else b"\n" + whole
        told_apart = times and not _NOBODY.fullmatch(whole[: times[0].start()])
        is_long = not times or len(words) >= _LONG_ENOUGH
        if words.endswith(b"\n") and is_long and not told_apart:
            self._often[words] = line

    def without_often(self, text: bytes) -> bytes:
        """The text without the lines that stand everywhere, which are counted."""
        for words, line in self._often.items():
            empty = b"\n" * words.count(b"\n")
            # whole lines share their newlines: of two in a row the second is met the second time
            for _ in empty:
                rest = text.replace(words, empty)
                self.more[line] += (len(text) - len(rest)) // (len(words) - len(empty))
                text = rest
        return text


def _rough(key: bytes) -> bytes:
    head, _, tail = key.partition(_SEAM)
    return _COUNTERS.sub(b"", head) + tail
