"""A stage's shards as columns in the data's own order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.ensembling.scores import SUM_TOLERANCE, Scores
from willfit.runner.pipeline import StageFile
from willfit.runner.prepared import PreparedRows
from willfit.runner.shards import Shard, Store

OURS = ("id", "n_tokens", "error")


@dataclass(frozen=True, kw_only=True)
class StageTable:
    """What a stage's shards hold."""

    shards: dict[str, str]
    """File names by range: evidence beside the output."""
    logits: npt.NDArray[np.float32] | None
    """[rows, labels], NaN where a row has none; None where the stage makes no numbers."""
    columns: dict[str, Any]
    """Other columns as Arrow arrays, null where a row has none."""


def read_stage(store: Store, rows: PreparedRows) -> StageTable:
    """All results of a stage, each file checked; rows without one stay empty."""
    found = store.tables()
    order = rows.numbers()
    names = list(
        dict.fromkeys(n for shard in found for n in shard.table.column_names if n not in OURS)
    )
    logits = _logits(found, order, store.num_rows) if "logits" in names else None
    columns = {name: _column(name, found, order, rows) for name in names if name != "logits"}
    return StageTable(
        shards={str(shard.rows): shard.path.name for shard in found},
        logits=logits,
        columns=columns,
    )


def _logits(
    shards: list[Shard], order: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float32]:
    width = next(len(row) for row in _first(shards, "logits"))
    table = np.full((count, width), np.nan, dtype=np.float32)
    for shard in shards:
        if "logits" not in shard.table.column_names:
            continue
        column = shard.table.column("logits").combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if len(flat) != shard.rows.size * width:
            raise InputError(
                f"rows {shard.rows} have another number of labels than the first ({width}): a "
                "function must return as many for each row"
            )
        table[order[shard.rows.start : shard.rows.stop]] = flat.reshape(-1, width)
    return table


def _first(shards: list[Shard], name: str) -> Iterator[Any]:
    for shard in shards:
        if name in shard.table.column_names:
            yield shard.table.column(name)[0].as_py()


def _column(
    name: str, shards: list[Shard], order: npt.NDArray[np.int64], rows: PreparedRows
) -> pa.ChunkedArray:
    """In the data's order: what each row's position has, null for those without."""
    having = [shard for shard in shards if name in shard.table.column_names]
    stacked = pa.chunked_array(
        [chunk for shard in having for chunk in shard.table.column(name).chunks]
    )
    places = np.full(rows.num_rows, -1, dtype=np.int64)
    at = 0
    for shard in having:
        places[order[shard.rows.start : shard.rows.stop]] = np.arange(at, at + shard.rows.size)
        at += shard.rows.size
    return stacked.take(pa.array(places, mask=places < 0))


def scores_of(
    name: str, stage: StageFile, table: StageTable, ids: pa.Array, weight: float
) -> Scores:
    """A stage as a member of an ensemble; raises `InputError` where it has no scores."""
    if table.logits is None:
        raise InputError(
            f"stage {name} has no scores to ensemble: it is a task that makes "
            f"{', '.join(table.columns) or 'nothing'}; leave it out with weight 0"
        )
    return Scores(
        name=name,
        ids=ids,
        logits=table.logits,
        weight=weight,
        columns=tuple(stage.columns) if stage.columns is not None else None,
        temperature=stage.temperature,
        is_probabilities=stage.run is not None and are_probabilities(table.logits),
    )


def are_probabilities(values: npt.NDArray[np.float32]) -> bool:
    """Whether a function's numbers are probabilities: none negative, each row's sum 1."""
    there = values[~np.isnan(values).any(axis=1)]
    sums = there.sum(axis=1, dtype=np.float64)
    return bool(
        len(there)
        and values.shape[1] > 1
        and (there >= 0).all()
        and (np.abs(sums - 1) <= SUM_TOLERANCE).all()
    )
