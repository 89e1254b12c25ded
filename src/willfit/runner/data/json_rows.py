"""JSON objects, one a line or in a list: columns are the names of the first object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import BrokenFileError, InputError
from willfit.runner.data.broken import reading
from willfit.settings.lengths import json_file, json_lines
from willfit.settings.lengths.table import Row, Table

SUFFIXES = (*json_lines.SUFFIXES, *json_file.SUFFIXES)
_CHUNK: Final = 4096
"""Rows that are Python objects at a time."""


def names(path: Path) -> list[str]:
    """Names in the first object."""
    with reading(path, "readable"), path.open("rb") as file:
        if b"".join(file.read(64).split()) in (b"", b"[]"):
            raise InputError(f"{path} has no rows: expected one for each prediction")
    return list(_rows(path).names)


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Those columns, null where an object lacks one; their types are those of all their values."""
    chunks = list(_chunks(_rows(path).rows(columns), columns, path))
    if not chunks:
        return pa.table({name: pa.nulls(0) for name in columns})
    with reading(path, "a table", "write a column's values in one type"):
        return pa.concat_tables(chunks, promote_options="permissive")


def _rows(path: Path) -> Table:
    one_a_line = path.suffix.lower() in json_lines.SUFFIXES
    return json_lines.read(path) if one_a_line else json_file.read(path)


def _chunks(rows: Iterator[Row], columns: Sequence[str], path: Path) -> Iterator[pa.Table]:
    while chunk := list(islice(rows, _CHUNK)):
        values = zip(*chunk, strict=True)
        yield pa.table(
            {name: _array(list(v), name, path) for name, v in zip(columns, values, strict=True)}
        )


def _array(values: list[Any], name: str, path: Path) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        raise BrokenFileError(
            f"{path} has values of several types, or whole numbers beyond 64 bits, in column "
            f"{name!r}: write them as text"
        ) from None
