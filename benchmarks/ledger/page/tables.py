"""Markdown of figures: percentages, tables, amounts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def percent(value: float | None, *, signed: bool = False) -> str:
    """``2.3 %``, ``−14 %``; a dash where there is none."""
    if value is None:
        return "–"
    size = abs(value) * 100
    text = f"{size:.0f}" if size >= 9.95 else f"{size:.1f}"
    sign = ""
    if signed and text.strip("0.") != "":
        sign = "−" if value < 0 else "+"
    return f"{sign}{text} %"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
    """A Markdown table whose first ``left`` columns are words and the rest figures."""
    marks = ["---" if number < left else "--:" for number in range(len(head))]
    lines = [_line(head), _line(marks)]
    return [*lines, *map(_line, rows), ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def gigabytes(num_bytes: int | None) -> str:
    """``12.34`` GiB, three digits and more of the small."""
    if num_bytes is None:
        return "–"
    value = num_bytes / 2**30
    return f"{value:,.2f}" if value >= 1 else f"{value:.4f}"
