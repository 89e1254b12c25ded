"""How wide text will be, without a font at hand: on the safe side of the usual sans-serif ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

FULL: Final = 1.1
"""Width of the widest character, in font sizes: CJK and emoji take a whole one."""
_CLASSES: Final = ((" ijlI|!.,:;'`()[]{}-", 0.42), ('ftrs/\\"*°', 0.54), ("mwMW@%×—…", 1.05))
_WIDTHS: Final = {character: width for characters, width in _CLASSES for character in characters}


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Units that a line of text takes at most, at a font of ``size`` units.

    By DejaVu Sans and Verdana, the widest fonts that stand for ``sans-serif``.
    """
    return sum(map(_width, printable(text))) * size * (1.12 if bold else 1)


def _width(character: str) -> float:
    if character in _WIDTHS:
        return _WIDTHS[character]
    if not character.isascii():
        return FULL
    return 0.76 if character.isupper() else 0.65


def fitted(text: str, room: float, size: float, *, bold: bool = False) -> str:
    """The text, cut with an ellipsis in its middle where it is wider than ``room``."""
    if text_width(text, size, bold=bold) <= room:
        return text
    for kept in range(min(len(text), 200), 0, -1):
        tail = kept // 3
        short = text[: kept - tail] + "…" + (text[-tail:] if tail else "")
        if text_width(short, size, bold=bold) <= room:
            return short
    return "…"


def lines_of(
    text: str, room: float, size: float, most: int = 3, *, bold: bool = False
) -> list[str]:
    """The text in lines no wider than ``room``, ``most`` of them; a word that is wider is cut."""
    lines = list(_lines(printable(text), room, size, bold=bold))
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], fitted(" ".join(lines[most - 1 :]), room, size, bold=bold)]


def _lines(text: str, room: float, size: float, *, bold: bool) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if text_width(longer, size, bold=bold) <= room:
            line = longer
            continue
        if line:
            yield line
        line = fitted(word, room, size, bold=bold)
    if line:
        yield line


def printable(text: str) -> str:
    """The text without what XML forbids and what would break a line or turn it around."""
    return "".join(" " if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
