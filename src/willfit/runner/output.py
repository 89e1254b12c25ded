"""The file that a run is for: ids and columns, on the disk whole or not at all.

The suffix names the format: ``.csv``, ``.csv.gz``, ``.parquet`` or ``.jsonl``. In text a number is
written with the fewest digits that read back as the same float64; null is an empty field of CSV
and ``null`` in JSON, which has no NaN either, so that NaN becomes ``null`` there as well.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.csv as arrow_csv  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.atomic import writing
from willfit.units import MIB

_BATCH_ROWS: Final = 16_384
"""Rows that are turned into text at a time: what bounds the memory of writing them."""

_QUOTED: Final = r'[",\r\n]|^\s|\s$|^$'
"""Strings that CSV must quote to give them back: the empty one too, since bare it means null."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `write_output` has put on the disk."""

    num_rows: int
    """Rows of the file, without the line of names."""
    sha256: str
    """Hexadecimal SHA-256 of the file's bytes, for `.csv.gz` of the compressed ones."""


def write_output(path: str | Path, ids: Any, id_name: str, columns: Mapping[str, Any]) -> Written:
    """Write ``ids`` under ``id_name`` and then ``columns``, in place of whatever lies at ``path``.

    ``ids`` and each column are a pyarrow array or a numpy array of one axis, all of one length;
    a folder that is missing is made.

    Raises `InputError` for a suffix without a format, for columns that do not fit each other or
    the format, and where the disk is full or must not be written; what was there then stays.
    """
    path = Path(path)
    write = _WRITERS[output_suffix(path)]
    table = _table(ids, id_name, columns)
    try:
        with writing(path) as pending:
            with pending.path.open("wb") as file:
                write(table, file)
            digest = _sha256(pending.path)
    except OSError as error:
        raise InputError(
            f"the output {path} cannot be written ({error.strerror or error}): "
            "name a file in a folder that can be written to"
        ) from error
    except (pa.ArrowException, ValueError) as error:
        raise InputError(
            f"the output {path} cannot hold these columns ({_first_line(error)}): "
            "name a .parquet file, or give columns of numbers and strings"
        ) from error
    return Written(num_rows=table.num_rows, sha256=digest)


def output_suffix(path: str | Path) -> str:
    """The suffix of ``path`` that names its format; `InputError` if there is none."""
    for suffix in _WRITERS:
        if Path(path).name.lower().endswith(suffix):
            return suffix
    raise InputError(
        f"the output {path} has no format: end its name with one of {', '.join(_WRITERS)}"
    )


def label_columns(num_labels: int, given: Sequence[str] | None) -> list[str]:
    """Names of the columns of ``num_labels`` labels: those given, or ``label_0`` and so on.

    Raises `InputError` if the names given are repeated, empty, or not one for each label.
    """
    if given is None:
        return [f"label_{label}" for label in range(num_labels)]
    names = [str(name) for name in given]
    if len(names) != num_labels or len(set(names)) != num_labels or "" in names:
        raise InputError(
            f"the output names the columns {', '.join(map(repr, names)) or 'none'}, "
            f"but there are {num_labels} labels: name each label once, in the order of the models"
        )
    return names


def _table(ids: Any, id_name: str, columns: Mapping[str, Any]) -> Any:
    if id_name in columns:
        raise InputError(
            f"the output has the column {id_name!r} twice, for the ids and for values: "
            "rename one of them"
        )
    for name, values in columns.items():
        if len(values) != len(ids):
            raise InputError(
                f"the output's column {name!r} has {len(values)} values for {len(ids)} ids: "
                "give each column one value a row"
            )
    try:
        return pa.table({id_name: _arrow(ids)} | {k: _arrow(v) for k, v in columns.items()})
    except pa.ArrowException as error:
        raise InputError(
            f"the output's columns must have one value a row ({_first_line(error)}): "
            "split an array of two axes into columns"
        ) from error


def _arrow(values: Any) -> Any:
    return values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _write_csv(table: Any, file: BinaryIO) -> None:
    table = _as_text(table)
    quoting = "needed" if any(map(_needs_quotes, table.columns)) else "none"
    file.write((",".join(map(_field, table.column_names)) + "\n").encode())
    options = arrow_csv.WriteOptions(
        include_header=False, batch_size=_BATCH_ROWS, quoting_style=quoting
    )
    arrow_csv.write_csv(table, file, options)


def _write_csv_gz(table: Any, file: BinaryIO) -> None:
    # no name and no time inside: the same rows give the same bytes
    # level 1: digits of a million rows shrink to 46 % in 0.7 s, at level 6 to 43 % in 4.6 s
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1) as packed:
        _write_csv(table, packed)  # type: ignore[arg-type]


def _write_parquet(table: Any, file: BinaryIO) -> None:
    pq.write_table(table, file, write_page_checksum=True, row_group_size=1 << 17)


def _write_jsonl(table: Any, file: BinaryIO) -> None:
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_json_text).encode
    for batch in _as_text(table).to_batches(max_chunksize=_BATCH_ROWS):
        values = [_nan_to_null(column).to_pylist() for column in batch.columns]
        rows = (
            dict(zip(table.column_names, row, strict=True)) for row in zip(*values, strict=True)
        )
        file.write("".join(f"{encode(row)}\n" for row in rows).encode())


def _as_text(table: Any) -> Any:
    """Columns as text has them: dictionaries decoded, floats as float64, one kind of string."""
    fields = [pa.field(field.name, _text_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def _text_type(kind: Any) -> Any:
    if pa.types.is_dictionary(kind):
        return _text_type(kind.value_type)
    if pa.types.is_floating(kind):
        return pa.float64()
    # string_view is not in the oldest pyarrow that we run with
    return pa.large_string() if str(kind) in ("string", "string_view") else kind


def _field(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""')) if re.search(_QUOTED, name) else name


def _needs_quotes(column: Any) -> bool:
    if not pa.types.is_large_string(column.type):
        return False
    return pc.any(pc.match_substring_regex(column, pattern=_QUOTED)).as_py() is True


def _nan_to_null(column: Any) -> Any:
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), None, column)


def _json_text(value: Any) -> str:
    """Dates, times and decimals as text; bytes have none that all readers share."""
    if isinstance(value, bytes):
        raise ValueError("JSON has no bytes")
    return str(value)


_WRITERS: Final[dict[str, Callable[[Any, BinaryIO], None]]] = {
    ".csv": _write_csv,
    ".csv.gz": _write_csv_gz,
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
}
