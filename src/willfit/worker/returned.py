"""What a user's function returned, as columns of results."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.worker.columns import list_column

TAKEN: Final = ("id", "n_tokens", "error")
"""Names of the columns that every result has besides."""


def columns_of(result: Any, stage: str, *, labels: int | None = None) -> pa.Table:
    """A function's result as a table; raises `InputError` on what is none.

    ``labels``: columns that an array must have, where the stage says so.
    """
    table = _table_of(result, stage)
    wrong = [name for name in table.column_names if name in TAKEN or name.startswith("#")]
    if wrong:
        raise InputError(
            f"{stage}: the function returned a column {wrong[0]!r}, which every result has "
            "already: give it another name"
        )
    if labels is not None and "logits" in table.column_names:
        _require_width(table, stage, labels)
    return table


def _require_width(table: pa.Table, stage: str, labels: int) -> None:
    widths = {len(row) for row in table.column("logits").to_pylist()}
    if widths - {labels}:
        raise InputError(
            f"{stage}: the function returned {sorted(widths)[0]} numbers a row and the stage has "
            f"labels: {labels}: return an array [rows, {labels}], or correct labels"
        )


def _table_of(result: Any, stage: str) -> pa.Table:
    if isinstance(result, pa.Table):
        return result
    if hasattr(result, "detach"):  # a torch tensor
        result = result.detach().float().cpu().numpy()
    if hasattr(result, "to_numpy") and not hasattr(result, "columns"):  # a series
        result = result.to_numpy()
    if isinstance(result, np.ndarray):
        return _of_array(result, stage) if result.dtype.kind in "fiub" else _of_sequence(
            result.tolist(), stage
        )  # fmt: skip
    if isinstance(result, Mapping) or hasattr(result, "columns"):
        return _of_mapping(result, stage)
    return _of_sequence(result, stage)


def _of_array(result: Any, stage: str) -> pa.Table:
    if result.ndim not in (1, 2):
        raise InputError(
            f"{stage}: the function returned an array of shape {result.shape}: expected "
            "[rows, labels] or [rows]"
        )
    values = result.reshape(len(result), -1).astype(np.float32)
    return pa.table({"logits": list_column(values, "a function must return finite numbers")})


def _of_mapping(result: Any, stage: str) -> pa.Table:
    try:
        if isinstance(result, Mapping):
            return pa.table({str(name): pa.array(list(column)) for name, column in result.items()})
        if hasattr(result, "to_arrow"):  # polars
            return result.to_arrow()
        return pa.Table.from_pandas(result, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise InputError(
            f"{stage}: the function's columns make no table ({str(error)[:80]}): expected columns "
            "of one length and one type each"
        ) from error


def _of_sequence(result: Any, stage: str) -> pa.Table:
    if not isinstance(result, Sequence) or isinstance(result, (str, bytes)):
        raise InputError(
            f"{stage}: the function returned {type(result).__name__}: expected an array [rows, "
            "labels], a list with one result a row, or a mapping of columns"
        )
    first = next((item for item in result if item is not None), None)
    if isinstance(first, str):
        return _of_mapping({"text": result}, stage)
    if isinstance(first, Mapping):
        rows = [{} if row is None else row for row in result]
        names = dict.fromkeys(itertools.chain.from_iterable(rows))
        return _of_mapping({name: [row.get(name) for row in rows] for name in names}, stage)
    try:
        array = np.asarray(result, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{stage}: the function's list holds no numbers ({str(error)[:80]}): expected one "
            "number, text, dict or list of labels a row"
        ) from error
    return _of_array(array, stage)
