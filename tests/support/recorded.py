"""Rows of a record beside their estimates, each made once."""

from __future__ import annotations

from functools import cache

from benchmarks.device.recorded import FOLDER, Compared, Recorded, compare, read_records


@cache
def records(file: str) -> dict[str, Recorded]:
    """The rows of a file of ``tests/data/measured`` by name."""
    return {record.name: record for record in read_records(FOLDER / file)}


@cache
def compared(file: str, name: str, *, trace: bool = False) -> Compared:
    """A row beside its estimate."""
    return compare(records(file)[name], trace=trace)


def error(found: Compared, kind: str) -> float:
    """Of the peak; fails where there is no estimate."""
    value = found.error(kind)
    assert value is not None, found.reason
    return value
