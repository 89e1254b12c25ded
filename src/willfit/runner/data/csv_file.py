"""Comma- or tab-separated values: a column becomes numbers where no digit is lost by it."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.csv as arrow_csv  # type: ignore[import-untyped]

from willfit.errors import BrokenFileError
from willfit.runner.data.broken import reading
from willfit.units import MIB

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_KIND = "a readable table of comma-separated values"
_FIX = "check its quotes, that every row has every column and none has more than 16 MiB"
_BLOCK: Final = 16 * MIB
"""Bytes that are parsed at a time, and so the longest row: 4 million tokens."""

_BLOCKS: Final = arrow_csv.ReadOptions(block_size=_BLOCK, use_threads=False)
"""One block after the other: threads are no faster here, and hold several."""
_LAST: Final = "last"

_WHOLE: Final = r"^(0|-?[1-9][0-9]{0,18})?$"
"""Whole numbers that are written back as they are read; ``007`` and ``+7`` are text."""
_DECIMAL: Final = r"^(-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?)?$"
"""Numbers that a float64 holds about as they are written; longer whole ones are text."""


def names(path: Path) -> list[str]:
    """Columns by the line of names."""
    with reading(path, _KIND, _FIX), _stream(path) as stream:
        reader = arrow_csv.open_csv(stream, read_options=_BLOCKS, parse_options=_parsing(path))
        return list(reader.schema.names)


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Those columns: int64, float64 or text; an empty field is null in numbers, "" in text."""
    with reading(path, _KIND, _FIX), _stream(path) as stream:
        table = arrow_csv.read_csv(
            stream,
            read_options=_BLOCKS,
            parse_options=_parsing(path),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns)
            ),
        )
    _refuse_open_quote(path)
    for index, name in enumerate(table.column_names):
        table = table.set_column(index, name, _typed(table.column(index)))
    return table


def _typed(text: pa.ChunkedArray) -> pa.ChunkedArray:
    for pattern, kind in ((_WHOLE, pa.int64()), (_DECIMAL, pa.float64())):
        if _all_match(text, pattern):
            try:
                return pc.if_else(pc.equal(text, ""), None, text).cast(kind)
            except pa.ArrowInvalid:  # 19 digits may be beyond 64 bits: they are text
                return text
    return text


def _all_match(text: pa.ChunkedArray, pattern: str) -> bool:
    """Whether every field matches and one is not empty; ends at the first chunk that says no."""
    matches = all(
        pc.all(pc.match_substring_regex(chunk, pattern), min_count=0).as_py()
        for chunk in text.chunks
    )
    return matches and any(pc.any(pc.not_equal(chunk, "")).as_py() for chunk in text.chunks)


def _parsing(path: Path) -> arrow_csv.ParseOptions:
    return arrow_csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)


def _delimiter(path: Path) -> str:
    return "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ","


def _stream(path: Path) -> pa.NativeFile:
    packed = path.suffix.lower() == ".gz"
    return pa.input_stream(str(path), compression="gzip" if packed else None)


def _refuse_open_quote(path: Path) -> None:
    """A file that is cut within quotes reads as one with fewer rows, the rest in the last value.

    Quotes come in pairs but for those amid a bare field (``5" pipe``), so that only an odd number
    of them is looked into: a record that is put after the last must be read as one of its own.
    """
    with _stream(path) as stream:
        odd = sum(part.count(b'"') for part in iter(lambda: stream.read(MIB), b"")) % 2
    if not odd:
        return
    before = csv.field_size_limit(_BLOCK)
    try:
        with _stream(path) as stream, io.TextIOWrapper(stream, "utf-8", newline="") as file:
            records = csv.reader(chain(file, ["\n", _LAST]), delimiter=_delimiter(path))
            (last,) = deque(records, maxlen=1)
    except csv.Error:  # a field beyond the bound: the quote is long open
        last = []
    finally:
        csv.field_size_limit(before)
    if last != [_LAST]:
        raise BrokenFileError(
            f"{path} ends within a quoted value: it is cut short or a quote is missing, "
            "write it again"
        )
