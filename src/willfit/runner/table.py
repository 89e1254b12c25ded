"""The user's data: a table whose ids are all there, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.data import csv_file, ipc, json_rows, parquet
from willfit.sources.limits import unreadable
from willfit.units import MIB

_FORMATS: Final[tuple[Any, ...]] = (parquet, csv_file, json_rows, ipc)
SUFFIXES: Final = tuple(suffix for known in _FORMATS for suffix in known.SUFFIXES)
"""Ends of the names of files that are read."""


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """A file's rows, in its order."""

    table: pa.Table = field(repr=False)
    """Its columns; that of the ids is an integer type or ``string``."""
    id_name: str
    """Name of the column of ids."""
    path: Path
    digest: str
    """blake2b-128, in hex, of the file's bytes."""

    @property
    def ids(self) -> pa.ChunkedArray:
        """The ids, without null, each once."""
        return self.table.column(self.id_name)


def read_table(path: Path, id_name: str = "id", columns: Sequence[str] | None = None) -> DataTable:
    """The table in a Parquet, CSV, JSON lines, JSON or Arrow file; its suffix says which.

    ``columns``: those to read beside the ids; None reads all. In CSV a column whose fields are all
    whole numbers is int64, all decimals float64, and anything else text: so are whole numbers
    beyond 64 bits and those with leading zeros, which would not be written back as they were.

    Raises `InputError` for a file that cannot be read, a column that is not there, no rows, and ids
    that are not whole numbers or text, missing, or repeated.
    """
    known = _format(path)
    names = known.names(path)
    wanted = names if columns is None else list(dict.fromkeys((id_name, *columns)))
    _check_names(path, names, wanted, id_name)
    table = known.read(path, wanted).replace_schema_metadata(None)
    if not table.num_rows:
        raise InputError(f"{path} has no rows: expected one for each prediction")
    ids = _checked_ids(table.column(id_name), id_name, path)
    table = table.set_column(table.schema.get_field_index(id_name), id_name, ids)
    return DataTable(table=table, id_name=id_name, path=path, digest=data_digest(path))


def read_ids(path: Path, id_name: str = "id") -> pa.ChunkedArray:
    """The column of ids as `read_table` has it, and no other where the format allows that.

    Raises `InputError` as `read_table` does.
    """
    known = _format(path)
    _check_names(path, known.names(path), (id_name,), id_name)
    ids = known.read(path, (id_name,)).column(id_name)
    if not len(ids):
        raise InputError(f"{path} has no rows: expected one for each prediction")
    return _checked_ids(ids, id_name, path)


def data_digest(path: Path) -> str:
    """blake2b-128, in hex, of a file's bytes; raises `InputError` where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while part := file.read(MIB):
                digest.update(part)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def _format(path: Path) -> Any:
    if path.is_dir():
        raise InputError(f"{path} is a folder: name one file of the data in it")
    for known in _FORMATS:
        if path.name.lower().endswith(known.SUFFIXES):
            return known
    raise InputError(f"{path} has no suffix of a table: expected one of {', '.join(SUFFIXES)}")


def _check_names(path: Path, names: Sequence[str], wanted: Sequence[str], id_name: str) -> None:
    twice = next((name for name in wanted if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has the column {twice!r} twice: rename one of them")
    if id_name not in names:
        raise InputError(
            f"{path} has no column {id_name!r}, which names each row: it has {_shown(names)}; "
            f"'id: {_likely_id(names)}' in the pipeline file says which column does"
        )
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}: it has {_shown(names)}")


def _shown(names: Sequence[str]) -> str:
    listed = ", ".join(name[:40] for name in names[:12])
    return listed + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _likely_id(names: Sequence[str]) -> str:
    """The column that is most likely the one of the ids."""
    return next((name for name in names if name.lower().endswith("id")), "row_id")


def _checked_ids(ids: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    ids = _plain(ids, name, path)
    absent = ids.is_null() if ids.type != pa.string() else pc.equal(pc.fill_null(ids, ""), "")
    if pc.any(absent).as_py():
        row, others = pc.index(absent, True).as_py() + 1, pc.sum(absent).as_py() - 1
        more = f", and {others:,} more have none" if others else ""
        raise InputError(f"row {row:,} of {path} has no {name!r}{more}: give each row its own")
    if _repeats(ids):
        raise InputError(f"{path} repeats {_repeated(ids, name)}: give each row its own")
    return ids


def _plain(ids: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """Ids as integers or ``string``, whatever the file's encoding of them."""
    types = pa.types
    kind = ids.type.value_type if types.is_dictionary(ids.type) else ids.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return ids.cast(pa.string())
    if types.is_integer(kind):
        return ids.cast(kind)
    if types.is_null(kind):
        raise InputError(f"{path} has no value in column {name!r}: give each row its own")
    raise InputError(
        f"{path} has {kind} in column {name!r}, expected whole numbers or text: convert them, or "
        "name another column with 'id:' in the pipeline file"
    )


def _repeats(ids: pa.ChunkedArray) -> bool:
    """Whether a value is there twice: sorting takes a third of a hash table's memory."""
    ordered = ids.take(pc.sort_indices(ids))
    return bool(pc.any(pc.equal(ordered[1:], ordered[:-1])).as_py())


def _repeated(ids: pa.ChunkedArray, name: str) -> str:
    """The first ids that are there more than once."""
    counts = pc.value_counts(ids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    first = ", ".join(repr(value)[:40] for value in twice.slice(0, 3).to_pylist())
    more = f" and {len(twice) - 3:,} more" if len(twice) > 3 else ""
    return f"the {name!r} {first}{more}"
