"""Prepared rows: a stage's rows in the order of their positions, in a memory-mapped Arrow file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import BrokenFileError
from willfit.runner.atomic import read_json, write_json, writing
from willfit.runner.content import digest_file
from willfit.runner.shards.ranges import Range

ROW: Final = "#row"
ID: Final = "#id"
LENGTH: Final = "#length"
SEQUENCES: Final = "#sequences"
INPUT_IDS: Final = "#input_ids"
NUM_CONTEXT: Final = "#num_context"
"""Columns of ours; the names of users' columns do not begin so."""
BATCH_ROWS: Final = 65_536
"""Rows of a record batch in the file."""


@dataclass(frozen=True, kw_only=True)
class PreparedRows:
    """The file, mapped: a range of rows costs what is read of it."""

    source: pa.Table = field(repr=False)

    @property
    def num_rows(self) -> int:
        """Rows of the stage."""
        return int(self.source.num_rows)

    @property
    def facts(self) -> Mapping[str, str]:
        """What was found when they were prepared, such as ``pad_token_id``."""
        found = self.source.schema.metadata or {}
        return {key.decode(): value.decode() for key, value in found.items()}

    def table(self, rows: Range) -> pa.Table:
        """The rows of a range."""
        return self.source.slice(rows.start, rows.size).combine_chunks()

    def sizes(self, rows: Range) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Tokens of each row's longest sequence, and how many sequences it has."""
        part = self.source.slice(rows.start, rows.size)
        return part.column(LENGTH).to_numpy(), part.column(SEQUENCES).to_numpy()

    def work(self) -> npt.NDArray[np.int64]:
        """Tokens of each position."""
        lengths, sequences = self.sizes(Range(0, self.num_rows))
        return lengths.astype(np.int64) * sequences

    def ids(self) -> pa.Array:
        """Ids by position."""
        return _array(self.source.column(ID))

    def numbers(self) -> npt.NDArray[np.int64]:
        """The row of the data at each position."""
        found: npt.NDArray[np.int64] = self.source.column(ROW).to_numpy()
        return found


def _array(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def read_own(path: Path) -> PreparedRows:
    """Our columns alone, in memory: what a driver needs for as long as a stage runs.

    20 bytes a row and its id; a mapped file would count as its memory page by page.
    """
    try:
        with pa.OSFile(str(path)) as file:
            schema = pa.ipc.open_file(file).schema
            wanted = [schema.get_field_index(name) for name in (ROW, ID, LENGTH, SEQUENCES)]
            options = pa.ipc.IpcReadOptions(included_fields=wanted)
            rows = PreparedRows(
                source=pa.ipc.open_file(file, options=options).read_all().combine_chunks()
            )
        pa.default_memory_pool().release_unused()
        return rows
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(path, error) from error


def open_rows(path: Path) -> PreparedRows:
    """The file as it is; raises `BrokenFileError` where it is none."""
    try:
        return PreparedRows(source=pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> BrokenFileError:
    return BrokenFileError(
        f"{path} is not a file of prepared rows ({str(error)[:80]}): run with --fresh"
    )


def save_rows(path: Path, table: pa.Table, facts: Mapping[str, str]) -> None:
    """Write rows and, last, what they are: the sidecar is what makes them count."""
    with writing(path) as pending:
        schema = table.schema.with_metadata(dict(facts))
        with pa.OSFile(str(pending.path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in table.replace_schema_metadata(dict(facts)).to_batches(BATCH_ROWS):
                writer.write_batch(batch)
    write_json(_beside(path), {"digest": digest_file(path), "rows": table.num_rows})


def are_whole(path: Path) -> bool:
    """Whether the rows are there, byte for byte as they were written."""
    stated = read_json(_beside(path))
    return stated is not None and path.is_file() and digest_file(path) == stated.get("digest")


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def ordered(
    table: pa.Table, lengths: npt.NDArray[np.int32], *, keep_order: bool = False
) -> pa.Table:
    """The longest first, rows of equal length in the data's order: the first batch is the largest.

    What is left to do is then never more than what was done suggests.
    """
    if keep_order:
        return table
    return table.take(pa.array(np.argsort(-lengths.astype(np.int64), kind="stable")))


def own_columns(
    ids: pa.ChunkedArray | pa.Array, lengths: npt.NDArray[np.int32],
    sequences: npt.NDArray[np.int32], more: Iterable[tuple[str, Any]] = (),
) -> pa.Table:  # fmt: skip
    """A table of our columns, in the data's order."""
    columns: dict[str, Any] = {
        ROW: pa.array(np.arange(len(lengths), dtype=np.int64)),
        ID: ids,
        LENGTH: pa.array(lengths, pa.int32()),
        SEQUENCES: pa.array(sequences, pa.int32()),
        **dict(more),
    }
    return pa.table(columns)
