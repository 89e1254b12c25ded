"""From the stages' results to the file that the run is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import InputError, StageFailedError
from willfit.runner.atomic import remove_stale_of, write_json
from willfit.runner.ensemble import Scores, ensemble
from willfit.runner.output import Written, label_columns, output_suffix, write_output
from willfit.runner.pipeline import PipelineFile, StageFile
from willfit.runner.results import StageTable, read_stage, scores_of
from willfit.runner.stages import Ready


@dataclass(frozen=True, kw_only=True)
class Composed:
    """The output, and what a reader should know of it."""

    path: Path
    written: Written
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What goes into the file."""

    columns: Mapping[str, Any]
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Weights, and what else made them, for the file beside."""


def compose(
    file: PipelineFile,
    stages: Mapping[str, Ready],
    ids: pa.Array,
    *,
    path: Path,
    missing: str,
) -> Composed:
    """Write the output, and beside it, in ``<output>.json``, what it was made of.

    ``missing``: ``error`` where every row must be there, ``available`` to take what is.
    """
    output_suffix(path)
    read = {name: read_stage(ready.store, ready.rows) for name, ready in stages.items()}
    tables = _with_the_empty(file, read, len(ids))
    made = (
        _ensembled(file, tables, ids, missing)
        if file.ensemble is not None or _is_one_distribution(file, tables)
        else _side_by_side(file, tables, missing)
    )
    output = file.output
    id_name = (output.id if output is not None else None) or file.id
    beside = path.with_name(path.name + ".json")
    for file_of_ours in (path, beside):
        remove_stale_of(file_of_ours)
    written = write_output(path, ids, id_name, made.columns)
    evidence = {
        "rows": written.num_rows,
        "sha256": written.sha256,
        **made.facts,
        "remarks": list(made.remarks),
        "stages": {
            name: {
                "fingerprint": stages[name].gathered.fingerprint,
                "shards": tables[name].shards,
            }
            for name in tables
        },
    }
    write_json(beside, evidence)
    return Composed(path=path, written=written, remarks=made.remarks)


def _with_the_empty(
    file: PipelineFile, tables: Mapping[str, StageTable], num_rows: int
) -> dict[str, StageTable]:
    """Stages of which nothing is there, as tables of rows without scores.

    Their labels are as many as another stage has, or as the file says; where nobody knows they stay
    as they are.
    """
    known = [table.logits.shape[1] for table in tables.values() if table.logits is not None]
    stated = [len(_names(file) or ()), *(stage.labels or 0 for stage in file.stages.values())]
    width = next((count for count in (*known, *stated) if count), None)
    if width is None:
        return dict(tables)
    empty = np.full((num_rows, width), np.nan, dtype=np.float32)
    return {
        name: table
        if table.shards or not _makes_scores(file.stages[name])
        else replace(table, logits=empty)
        for name, table in tables.items()
    }


def _makes_scores(stage: StageFile) -> bool:
    return stage.task in ("classify", "choose") or stage.run is not None


def _is_one_distribution(file: PipelineFile, tables: Mapping[str, StageTable]) -> bool:
    """Whether the one stage there is gives probabilities of labels, and nothing else."""
    (name, table), *others = tables.items()
    if others or table.logits is None or table.columns:
        return False
    return file.stages[name].task != "choose" or _names(file) is not None


def _ensembled(
    file: PipelineFile, tables: Mapping[str, StageTable], ids: pa.Array, missing: str
) -> Columns:
    weights = file.weights or dict.fromkeys(tables, 1.0)
    if not any(table.shards or table.logits is not None for table in tables.values()):
        raise StageFailedError(
            "no row has a result, and how many labels there are is not known, so there is nothing "
            "to write: run the same command again, or say how many with labels"
        )
    members = [
        scores_of(name, file.stages[name], table, ids, weights.get(name, 0.0))
        for name, table in tables.items()
        if weights.get(name, 0.0) > 0
    ]
    method = file.ensemble.method if file.ensemble is not None else "mean"
    if all(np.shape(member.logits)[1] == 1 for member in members):
        return _averaged(members, _names(file), method, missing)
    found = ensemble(
        members,
        ids=ids,
        method=method,
        missing="available" if missing == "available" else "error",
    )
    names = label_columns(found.probabilities.shape[1], _names(file))
    columns = {name: found.probabilities[:, i] for i, name in enumerate(names)}
    facts = {"method": method, "weights": dict(found.weights)}
    return Columns(columns=columns, remarks=found.remarks, facts=facts)


def _averaged(
    members: Sequence[Scores], names: Sequence[str] | None, method: str, missing: str
) -> Columns:
    """One score a row, as a regression has it: the weighted mean of the scores themselves."""
    if method in ("vote", "rank"):
        raise InputError(
            f"ensemble has method {method} and the stages have one score a row: use method: mean"
        )
    values = np.stack([np.asarray(member.logits, dtype=np.float64)[:, 0] for member in members])
    there = ~np.isnan(values)
    for member, has in zip(members, there, strict=True):
        if missing == "error" and not has.all():
            raise InputError(
                f"stage {member.name} has no score for {int((~has).sum()):,} rows: run it again "
                "for these, or set ensemble: {missing: available}"
            )
    weights = np.asarray([[member.weight] for member in members]) * there
    total = weights.sum(axis=0)
    sums = np.where(there, values, 0.0) * weights
    with np.errstate(invalid="ignore"):
        mean = sums.sum(axis=0) / total
    empty = int((total == 0).sum())
    remarks = (f"no stage has a score for {empty:,} rows: they are empty",) if empty else ()
    column = label_columns(1, names)[0] if names else "score"
    facts = {"method": "mean", "weights": {member.name: member.weight for member in members}}
    return Columns(columns={column: mean}, remarks=remarks, facts=facts)


def _names(file: PipelineFile) -> list[str] | None:
    given = file.output.columns if file.output is not None else None
    return list(given) if given is not None else None


def _side_by_side(file: PipelineFile, tables: Mapping[str, StageTable], missing: str) -> Columns:
    """Every stage's own columns, with the stage's name before them where there are several."""
    columns: dict[str, Any] = {}
    for name, table in tables.items():
        before = f"{name}_" if len(tables) > 1 else ""
        found = dict(table.columns)
        if table.logits is not None:
            found |= _scores(table.logits, choose=file.stages[name].task == "choose")
        columns |= {before + column: values for column, values in found.items()}
        _require_whole(name, table, missing)
    if _names(file):
        raise InputError(
            "output names columns of labels and the stages make no ensemble: leave output.columns "
            "out, or say how to combine them with ensemble:"
        )
    return Columns(columns=columns)


def _scores(logits: npt.NDArray[np.float32], *, choose: bool) -> dict[str, Any]:
    """A column a score; of choices the best one's number, from 0, before them."""
    scores = {f"score_{i}": logits[:, i] for i in range(logits.shape[1])}
    if not choose:
        return scores
    empty = np.isnan(logits).any(axis=1)
    best = np.where(empty, 0, np.nan_to_num(logits, nan=-np.inf).argmax(axis=1))
    return {"choice": pa.array(best.astype(np.int32), mask=empty), **scores}


def _require_whole(name: str, table: StageTable, missing: str) -> None:
    if table.num_missing and missing == "error":
        raise InputError(
            f"stage {name} has no result for {table.num_missing:,} rows: run it again for these, "
            "or set ensemble: {missing: available} to leave them empty"
        )
