"""A stage's shards as columns in the data's own order."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    num_missing: int = 0
    """Rows without a result, also those with an error in its place."""


def read_stage(store: Store, rows: PreparedRows) -> StageTable:
    """All results of a stage, each file checked, one in memory at a time; the rest stays empty."""
    order, names = rows.numbers(), dict[str, str]()
    num_there = 0
    logits: npt.NDArray[np.float32] | None = None
    found: dict[str, _Gathering] = {}
    for shard in store.shards():
        names[str(shard.rows)] = shard.path.name
        places = order[shard.rows.start : shard.rows.stop]
        num_there += shard.table.column("error").null_count
        for name in shard.table.column_names:
            if name == "logits":
                logits = _with_logits(logits, shard, places, store.num_rows)
            elif name not in OURS:
                gathering = found.setdefault(name, _Gathering(count=store.num_rows))
                gathering.add(shard.table.column(name), places)
    columns = {name: gathering.column() for name, gathering in found.items()}
    return StageTable(
        shards=names, logits=logits, columns=columns, num_missing=store.num_rows - num_there
    )


def _with_logits(
    logits: npt.NDArray[np.float32] | None,
    shard: Shard,
    places: npt.NDArray[np.int64],
    count: int,
) -> npt.NDArray[np.float32]:
    """The table with a shard's logits in their rows."""
    column = shard.table.column("logits").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    width = len(column[0].as_py()) if logits is None else logits.shape[1]
    if len(flat) != shard.rows.size * width:
        raise InputError(
            f"rows {shard.rows} have another number of labels than the first ({width}): a "
            "function must return as many for each row"
        )
    if logits is None:
        logits = np.full((count, width), np.nan, dtype=np.float32)
    logits[places] = flat.reshape(-1, width)
    return logits


@dataclass(kw_only=True)
class _Gathering:
    """A column as it comes together."""

    count: int
    parts: list[pa.Table] = field(default_factory=list)
    places: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, column: pa.ChunkedArray, places: npt.NDArray[np.int64]) -> None:
        """A shard's part, and the rows of the data that it belongs to."""
        self.parts.append(pa.table({"part": column}))
        self.places.append(places)

    def column(self) -> pa.ChunkedArray:
        """In the data's order: what each row has, null for those without."""
        where = np.full(self.count, -1, dtype=np.int64)
        places = np.concatenate(self.places)
        where[places] = np.arange(len(places))
        whole = pa.concat_tables(self.parts, promote_options="permissive").column("part")
        return whole.take(pa.array(where, mask=where < 0))


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
