"""Files of one JSON object a line that only grow: appended and flushed, read past a torn end."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError
from willfit.units import MIB

MAX_LINE: Final = 64 * MIB
"""A row that is read; those that are written have some ten thousand bytes, a probe's a million."""


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One line at the end, on the disk when this returns.

    A line that an interrupted writer left without its end is closed first. Raises `InputError`
    where the file cannot be written.
    """
    line = json.dumps(row, default=str, allow_nan=False).encode() + b"\n"
    with _appending(path) as descriptor:
        _write(descriptor, b"\n" + line if _is_torn(path) else line)
        os.fsync(descriptor)


def require_writable(path: Path) -> None:
    """Raise `InputError` where no row can be appended; the file is there afterwards."""
    with _appending(path):
        pass


@contextmanager
def _appending(path: Path) -> Iterator[int]:
    """The file's descriptor, its folder made where it is not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room and run the same command again"
    return "name a file in a folder that can be written"


def _write(descriptor: int, data: bytes) -> None:
    """In one call where the system takes it whole, as it does but for a full disk."""
    while data:
        data = data[os.write(descriptor, data) :]


def _is_torn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except (FileNotFoundError, OSError):  # nothing there, or nothing in it
        return False


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole row; a line that is none is passed over if it is a torn one.

    Raises `BrokenFileError` where a line is JSON and no object, or longer than 64 MiB.
    """
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                row = _row(path, line)
                if row is not None:
                    yield row
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): name a file of rows") from error


def _row(path: Path, line: bytes) -> dict[str, Any] | None:
    if len(line) > MAX_LINE:
        raise BrokenFileError(f"{path} has a line of more than 64 MiB: expected a file of rows")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        raise BrokenFileError(f"{path} has a line that is no object: expected a file of rows")
    return found
