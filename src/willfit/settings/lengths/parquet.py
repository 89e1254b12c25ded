"""A Parquet file, read by pyarrow a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError, MissingLibraryError
from willfit.settings.lengths.table import MAX_FIELD, Row, Table, checked_names, too_long
from willfit.sources.limits import unreadable
from willfit.units import MIB

SUFFIXES = (".parquet",)
_BATCH: Final = 256
"""Rows decoded at a time."""


def read(path: Path) -> Table:
    """Columns of the file's schema; the rows are read by those asked for alone."""
    names = checked_names([str(name) for name in _open(path).schema_arrow.names], path)
    return Table(path=path, names=names, rows=lambda wanted: _rows(path, wanted))


def _rows(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]

    file = _open(path)
    try:
        for batch in file.iter_batches(batch_size=_BATCH, columns=list(wanted), use_threads=False):
            if batch.nbytes > _BATCH * MAX_FIELD:
                raise BrokenFileError(too_long(path, "a row"))
            yield from zip(*(_column(batch, name) for name in wanted), strict=True)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise BrokenFileError(_broken(path, error)) from None


def _column(batch: Any, name: str) -> list[Any]:
    """Values; of lists of numbers (``input_ids``) a range of as many, since only that counts."""
    import pyarrow

    array = batch.column(batch.schema.get_field_index(name))
    types = pyarrow.types
    listed = types.is_list(array.type) or types.is_large_list(array.type)
    if listed and types.is_integer(array.type.value_type):
        sizes = array.value_lengths().to_pylist()
        return [None if size is None else range(size) for size in sizes]
    return list(array.to_pylist())


def _open(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise MissingLibraryError(
            f"reading {path} needs pyarrow: pip install 'willfit[data]', or save it as .jsonl"
        ) from None
    try:
        with path.open("rb"):
            pass
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=MIB)
    except (pyarrow.ArrowException, ValueError) as error:
        raise BrokenFileError(_broken(path, error)) from None
    except OSError as error:
        raise unreadable(path, error) from error


def _broken(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return f"{path} is not a readable Parquet file ({reason}): write it again"
