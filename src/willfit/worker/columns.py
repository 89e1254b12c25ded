"""Results as Arrow columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]


def list_column(values: npt.NDArray[np.float32]) -> pa.Array:
    """Float32 [rows, n] as a column of lists."""
    flat = np.ascontiguousarray(values, dtype=np.float32)
    rows, width = flat.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat.reshape(-1)))
