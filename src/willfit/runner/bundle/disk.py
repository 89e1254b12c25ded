"""What the run's folder will take of the disk that a notebook keeps, from above."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.pipeline import Pipeline, StageFile
from willfit.runner.table import read_ids
from willfit.units import MIB

TOKEN_BYTES: Final = 4
"""A token's number in prepared rows: int32."""
ROW_BYTES: Final = 64
"""Of a prepared row and of its result: row number, id, lengths, offsets, a shard's own columns."""
LABEL_BYTES: Final = 4
"""A logit or a number of an embedding: float32."""
TEXT_BYTES: Final = 16
"""Of a generated token as text; the longest tokens of common vocabularies are whole words."""
WIDEST: Final = 8192
"""Numbers of an embedding: the hidden size of models of 70B."""
UNSAID_LABELS: Final = 16
UNSAID_TOKENS: Final = 8192
"""Length of a row where nothing bounds it but the model: that of Llama-3 and Gemma-2."""
FIXED: Final = 8 * MIB
"""Logs, digests and reports of a stage, and the footers of its shards."""
ROWS_SHOWN: Final = 100_000
"""Rows for which an amount is said where the data is not here."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """An upper bound of the run's folder, and for how many rows it holds."""

    num_bytes: int
    num_rows: int
    rows_known: bool
    """Whether the data was here to be counted, or the user said it."""
    remarks: tuple[str, ...] = ()


def disk_of(pipeline: Pipeline, rows: int | None) -> Disk:
    """An upper bound for ``rows`` rows, or for those of the data where they can be counted."""
    known = rows if rows is not None else _counted(pipeline)
    num_rows = known if known is not None else ROWS_SHOWN
    data_bytes = _data_bytes(Path(pipeline.file.data))
    remarks: list[str] = []
    total = 0
    for name, stage in pipeline.stages.items():
        total += FIXED + num_rows * (_prepared(stage) + _result(stage))
        if stage.run is not None:
            total += data_bytes or 0
            remarks += [f"stage {name}: what its function returns is taken for some numbers a row"]
            if data_bytes is None:
                remarks += [f"stage {name}: a copy of the data's columns comes on top"]
        elif stage.max_length is None:
            remarks += [f"stage {name} has no max_length: {UNSAID_TOKENS:,} tokens a row are taken"]
    if pipeline.file.prepare is not None:
        total += data_bytes or 0
        remarks += ["the data that prepare makes is taken for as large as the data"]
    return Disk(
        num_bytes=total, num_rows=num_rows, rows_known=known is not None, remarks=tuple(remarks)
    )


def _prepared(stage: StageFile) -> int:
    """Bytes of a row with its tokens."""
    if stage.run is not None:
        return ROW_BYTES
    sequences = len(stage.choices) if isinstance(stage.choices, tuple) else 1
    return ROW_BYTES + sequences * TOKEN_BYTES * (stage.max_length or UNSAID_TOKENS)


def _result(stage: StageFile) -> int:
    """Bytes of a row's result."""
    if stage.task == "generate":
        return ROW_BYTES + TEXT_BYTES * (stage.max_new_tokens or 0)
    if stage.task == "embed":
        return ROW_BYTES + LABEL_BYTES * WIDEST
    listed = len(stage.choices) if isinstance(stage.choices, tuple) else None
    return ROW_BYTES + LABEL_BYTES * (stage.labels or listed or UNSAID_LABELS)


def _counted(pipeline: Pipeline) -> int | None:
    try:
        return len(read_ids(Path(pipeline.file.data), pipeline.file.id))
    except InputError:
        return None


def _data_bytes(path: Path) -> int | None:
    """Bytes of the data in memory, about; None where it is not here."""
    if not path.is_file():
        return None
    if path.suffix.lower() != ".parquet":
        return path.stat().st_size
    metadata = pq.read_metadata(path)
    groups = range(metadata.num_row_groups)
    return int(sum(metadata.row_group(group).total_byte_size for group in groups))
