"""Results as Arrow columns."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

OF_A_MODEL: Final = (
    "float16 is too narrow for some models, such as Gemma, so try dtype: bfloat16 or float32"
)


def list_column(values: npt.NDArray[np.float32], advice: str = OF_A_MODEL) -> pa.Array:
    """Float32 [rows, n] as a column of lists.

    Raises `ValueError` where one is not finite: that is no result, and elsewhere NaN means that a
    row has none.
    """
    flat = np.ascontiguousarray(values, dtype=np.float32)
    rows, width = flat.shape
    broken = int((~np.isfinite(flat)).any(axis=1).sum())
    if broken:
        raise ValueError(
            f"the results of {broken} of {rows} rows are not finite (NaN or infinity): {advice}"
        )
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat.reshape(-1)))
