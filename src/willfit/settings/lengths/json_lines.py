"""One JSON object a line, as data sets are most often written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from willfit.errors import BrokenFileError
from willfit.settings.lengths.table import Row, Table, checked_names, lines
from willfit.sources.limits import unreadable

SUFFIXES = (".jsonl", ".ndjson")


def read(path: Path) -> Table:
    """Columns by the names of the first object; whole numbers alone are token counts."""
    return table_of(path, _values)


def table_of(path: Path, values: Callable[[Path], Iterator[Any]]) -> Table:
    """The table of a file that is a sequence of JSON values."""
    first: Any = next(values(path), {})
    names = ("length",) if _is_count(first) else tuple(_fields(first, path, 1))
    return Table(
        path=path,
        names=checked_names(names, path),
        rows=lambda wanted: _rows(values(path), path, wanted),
    )


def _rows(values: Iterator[Any], path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    for number, value in enumerate(values, 1):
        if _is_count(value):
            yield (value,)
        else:
            fields = _fields(value, path, number)
            yield tuple(fields.get(name) for name in wanted)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fields(value: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BrokenFileError(
            f"row {number:,} of {path} is a JSON {type(value).__name__}: expected an object with "
            "named fields"
        )
    return value


def _values(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(lines(file, path), 1):
                if line.strip():
                    yield _value(line, path, number)
    except OSError as error:
        raise unreadable(path, error) from error


def _value(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise BrokenFileError(
            f"line {number:,} of {path} is not JSON: expected one object a line"
        ) from None
