"""A table of comma- or tab-separated values with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from willfit.errors import BrokenFileError
from willfit.settings.lengths.table import MAX_FIELD, Row, Table, checked_names, lines
from willfit.sources.limits import unreadable

SUFFIXES = (".csv", ".tsv")


def read(path: Path) -> Table:
    """Columns by the names of the first line."""
    names = checked_names([name.strip() for name in next(_records(path), [])], path)
    return Table(path=path, names=names, rows=lambda wanted: _rows(path, names, wanted))


def _rows(path: Path, names: Sequence[str], wanted: Sequence[str]) -> Iterator[Row]:
    columns = [names.index(name) for name in wanted]
    records = _records(path)
    next(records, None)
    for record in records:
        if record:  # an empty line is no row
            yield tuple(record[i] if i < len(record) else None for i in columns)


def _records(path: Path) -> Iterator[list[str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    before = csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.reader(lines(file, path), delimiter=delimiter)
    except OSError as error:
        raise unreadable(path, error) from error
    except csv.Error as error:
        raise BrokenFileError(
            f"{path} is no table of comma-separated values ({error}): check its quotes"
        ) from None
    finally:
        csv.field_size_limit(before)
