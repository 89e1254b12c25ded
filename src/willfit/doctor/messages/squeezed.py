"""Squeezed: a text without spaces and frames, in which a message reads the same however wrapped.

A terminal breaks lines in the middle of words and of numbers (``22.0`` / ``0 MiB``), and a copy of
it keeps the breaks; a sentence of fixed words is as particular without its spaces as with them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from typing import Final

from willfit.doctor.amounts import AMOUNT
from willfit.doctor.passage import Flat

LINKED_AMOUNT: Final = AMOUNT.replace(r"\s?", "")
"""Pattern of an amount that the next word touches once the spaces are out."""
SQUEEZED_AMOUNT: Final = LINKED_AMOUNT + "(?![A-Za-z])"
"""Pattern of an amount that no word follows."""
_FRAMES: Final = frozenset("#*>|│┃║") | {"//"}
"""What stands alone at the edges of a box, of a quotation and of a comment."""
_STRETCH: Final = re.compile(r"(?s:.+)")
_AMOUNT: Final = re.compile(AMOUNT)
_UNIT: Final = re.compile(r"(?<=\d)(?=[A-Za-z])")


class Squeezed:
    """The text of a flat without spaces, and where each character came from."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat

    @cached_property
    def _parts(self) -> tuple[str, list[int], list[int]]:
        words = self.flat.text.split(" ")
        squeezed, spaced = [0], [0]
        kept = ["" if word in _FRAMES else word for word in words]
        for word, rest in zip(words, kept, strict=True):
            squeezed.append(squeezed[-1] + len(rest))
            spaced.append(spaced[-1] + len(word) + 1)
        return "".join(kept), squeezed, spaced

    @property
    def text(self) -> str:
        """The words, joined by nothing."""
        return self._parts[0]

    def offset(self, index: int) -> int:
        """Offset in the flat's text of a character of this text."""
        _, squeezed, spaced = self._parts
        word = bisect_right(squeezed, index) - 1
        return spaced[word] + index - squeezed[word]

    def stretch(self, start: int, end: int) -> re.Match[str]:
        """What stands from ``start`` up to ``end`` of this text, as a match in the flat's."""
        text, first = self.flat.text, self.offset(start)
        found = _STRETCH.match(text, first, self.offset(max(start, end - 1)) + 1)
        if found is None:
            raise ValueError(f"an empty stretch at {start} of {len(text)}")
        return found

    def amount(self, match: re.Match[str], group: str) -> str:
        """An amount of a match in this text as it was printed, breaks taken out."""
        start, end = match.span(group)
        printed = self.stretch(start, end)[0]
        if _AMOUNT.fullmatch(printed):
            return printed
        return _UNIT.sub(" ", match[group], count=1)


def unspaced(pattern: str) -> re.Pattern[str]:
    """The pattern for squeezed texts of one that is written with its spaces."""
    return re.compile(pattern.replace(" ?", "").replace(" ", ""))
