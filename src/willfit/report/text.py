"""Pieces of text that every report uses: tables in 80 columns, bars, colour on terminals only."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 80
GLYPHS: Final = "█▓▒░▚▞▄▌▙▟"
"""Fill of the parts of a bar, in their order."""
_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, kw_only=True)
class Style:
    """Whether colour codes are written."""

    color: bool = False

    def paint(self, text: str, name: str) -> str:
        """Text in a colour (``bold``, ``red``, ``green``, ``yellow``, ``cyan``, ``dim``)."""
        return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if self.color else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "  ") -> list[str]:
    """Lines of a table: first column left, the others right aligned, no wider than its content."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        parts = [first.ljust(widths[0])]
        parts += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        return (indent + "  ".join(parts)).rstrip()

    return [line(header), indent + "  ".join("─" * width for width in widths), *map(line, rows)]


def bar(amounts: Sequence[int], capacity_bytes: int, width: int = 60) -> str:
    """A stacked bar of ``width`` cells against a capacity; what does not fit is drawn as ``!``."""
    scale = max(capacity_bytes, sum(amounts), 1)
    ends = [round(sum(amounts[: i + 1]) * width / scale) for i in range(len(amounts))]
    limit = round(capacity_bytes * width / scale)
    cells, start = "", 0
    for index, end in enumerate(ends):
        cells += GLYPHS[index % len(GLYPHS)] * (end - start)
        start = max(start, end)
    cells = cells.ljust(width, "·")
    return cells[:limit] + ("!" * (width - limit))


def wrapped(text: str, *, first: str, rest: str) -> list[str]:
    """A paragraph in 80 columns, with one prefix for the first line and one for the others."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False
    )


def titled(remarks: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """A paragraph for each thing to say, after its title: ``assumed: ...``."""
    return [
        line
        for title, texts in remarks
        for text in texts
        for line in wrapped(text, first=f"{title}: ", rest="  ")
    ]
