"""A Parquet file: only the columns that are wanted are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.runner.data.broken import reading
from willfit.units import MIB

SUFFIXES = (".parquet",)
_KIND = "a readable Parquet file"


def names(path: Path) -> list[str]:
    """Columns in the file's order."""
    with reading(path, _KIND), _open(path) as file:
        return list(file.schema_arrow.names)


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Those columns; pages that carry a checksum are checked."""
    with reading(path, _KIND), _open(path) as file:
        table = file.read(columns=list(columns))
        table.validate(full=True)
        return table.select(list(columns))


def _open(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=MIB, page_checksum_verification=True)
