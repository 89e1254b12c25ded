"""From the stages' results to the file that the run is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.atomic import write_json
from willfit.runner.ensemble import Scores, ensemble
from willfit.runner.output import Written, label_columns, output_suffix, write_output
from willfit.runner.pipeline import PipelineFile
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
    tables = {name: read_stage(ready.store, ready.rows) for name, ready in stages.items()}
    made = (
        _ensembled(file, tables, ids, missing)
        if file.ensemble is not None or (len(tables) == 1 and _has_scores(tables))
        else _side_by_side(file, tables, missing)
    )
    output = file.output
    id_name = (output.id if output is not None else None) or file.id
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
    write_json(path.with_name(path.name + ".json"), evidence)
    return Composed(path=path, written=written, remarks=made.remarks)


def _has_scores(tables: Mapping[str, StageTable]) -> bool:
    return all(table.logits is not None and not table.columns for table in tables.values())


def _ensembled(
    file: PipelineFile, tables: Mapping[str, StageTable], ids: pa.Array, missing: str
) -> Columns:
    weights = file.weights or dict.fromkeys(tables, 1.0)
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
            labels = label_columns(table.logits.shape[1], None)
            found |= {label: table.logits[:, i] for i, label in enumerate(labels)}
        columns |= {before + column: values for column, values in found.items()}
        _require_whole(name, table, missing)
    if _names(file):
        raise InputError(
            "output names columns of labels and the stages make no ensemble: leave output.columns "
            "out, or say how to combine them with ensemble:"
        )
    return Columns(columns=columns)


def _require_whole(name: str, table: StageTable, missing: str) -> None:
    empty = 0
    if table.logits is not None:
        empty = int(np.isnan(table.logits).any(axis=1).sum())
    for column in table.columns.values():
        empty = max(empty, int(column.null_count))
    if empty and missing == "error":
        raise InputError(
            f"stage {name} has no result for {empty:,} rows: run it again for these, or set "
            "ensemble: {missing: available} to leave them empty"
        )
