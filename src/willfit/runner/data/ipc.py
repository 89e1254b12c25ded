"""An Arrow IPC file (Feather), or a stream as the datasets library writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.ipc  # type: ignore[import-untyped]

from willfit.errors import BrokenFileError
from willfit.runner.data.broken import reading

SUFFIXES = (".arrow", ".feather", ".ipc")
_KIND = "a readable Arrow file"
_MAGIC: Final = b"ARROW1"
_END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What a whole stream ends with; one that is cut between messages reads as a shorter table."""


def names(path: Path) -> list[str]:
    """Columns in the file's order."""
    with reading(path, _KIND), pa.OSFile(str(path)) as source:
        return list(_reader(source, path, None).schema.names)


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Those columns; refuses a stream without its end."""
    with reading(path, _KIND), pa.OSFile(str(path)) as source:
        table = _reader(source, path, columns).read_all().select(list(columns))
        table.validate(full=True)
        return table


def _reader(
    source: pa.NativeFile, path: Path, columns: Sequence[str] | None
) -> pa.RecordBatchReader:
    is_file = source.read(len(_MAGIC)) == _MAGIC
    source.seek(0)
    if columns is None:
        options = None
    else:
        schema = _reader(source, path, None).schema
        source.seek(0)
        options = pa.ipc.IpcReadOptions(
            included_fields=[schema.get_field_index(name) for name in columns]
        )
    if is_file:
        return pa.ipc.open_file(source, options=options)
    _refuse_cut(path)
    return pa.ipc.open_stream(source, options=options)


def _refuse_cut(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_END)))
        if file.read() != _END:
            raise BrokenFileError(
                f"{path} is an Arrow stream without its end, so rows may be missing: write it again"
            )
