"""Rows of the user's data, one after the other: what every format gives, and its bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from willfit.errors import BrokenFileError, InputError
from willfit.units import MIB, format_bytes

MAX_ROWS: Final = 50_000_000
"""Samples that are read; the largest public instruction sets have some millions."""
MAX_FIELD: Final = 16 * MIB
"""Characters of one row: 4 million tokens, beyond any model's context."""
MAX_COLUMNS: Final = 4096

Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file's columns by name, and its rows in order, never more than a few at a time."""

    path: Path
    names: tuple[str, ...]
    """Columns in the file's order."""
    rows: Callable[[Sequence[str]], Iterator[Row]]
    """Values of the columns asked for, None where a row lacks one."""


def bounded(rows: Iterator[Row], path: Path) -> Iterator[Row]:
    """The same rows; raises `BrokenFileError` where they do not end."""
    for number, row in enumerate(rows):
        if number >= MAX_ROWS:
            raise BrokenFileError(f"{path} has more than {MAX_ROWS:,} rows: give a part of them")
        yield row


def lines(file: IO[str], path: Path) -> Iterator[str]:
    """Lines of a text file, each of a bounded length; not UTF-8 is an `InputError`."""
    number = 0
    try:
        while line := file.readline(MAX_FIELD + 1):
            number += 1
            if len(line) > MAX_FIELD:
                raise BrokenFileError(too_long(path, f"line {number:,}"))
            yield line
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not UTF-8 text after line {number:,}: save it as UTF-8"
        ) from None


def too_long(path: Path, what: str) -> str:
    """The sentence for a row that is longer than any real one."""
    return f"{what} of {path} is longer than {format_bytes(MAX_FIELD)}: no model reads so much"


def checked_names(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Column names; raises where there are none, or absurdly many."""
    if not names or len(names) > MAX_COLUMNS:
        raise InputError(
            f"{path} has {len(names):,} columns: expected a table with a column of texts or of "
            "token counts"
        )
    return tuple(str(name) for name in names)
