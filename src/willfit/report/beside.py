"""A table of sides: they are columns while that fits the width, else rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from willfit.report.text import WIDTH, table

Rows = Mapping[str, Sequence[str]]
"""Values by their name, one for each side."""


def beside(title: str, sides: Sequence[str], rows: Rows) -> list[str]:
    """Lines of a table of every row's value in every side."""
    upright = table((title, *sides), [(name, *values) for name, values in rows.items()])
    if max(map(len, upright)) <= WIDTH:
        return upright
    return [line for part in _in_parts(sides, rows) for line in _lying(title, sides, part)][:-1]


def _lying(title: str, sides: Sequence[str], rows: Rows) -> list[str]:
    """Sides as rows, and an empty line."""
    columns = [rows[name] for name in rows]
    body = [(side, *(column[i] for column in columns)) for i, side in enumerate(sides)]
    return [*table((title, *rows), body), ""]


def _in_parts(sides: Sequence[str], rows: Rows) -> Iterator[Rows]:
    """As many rows at a time as are columns within the width; one that is wider stands alone."""
    part: dict[str, Sequence[str]] = {}
    for name, values in rows.items():
        wider = {**part, name: values}
        if part and max(map(len, _lying(" " * 24, sides, wider))) > WIDTH:
            yield part
            wider = {name: values}
        part = wider
    if part:
        yield part
