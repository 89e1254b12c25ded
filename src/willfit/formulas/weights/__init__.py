"""Weights on the device: every row of the tensor table in the type it is loaded in."""

from __future__ import annotations

from willfit.formulas.weights.cast import (
    CACHED_ROTARY,
    TABLE_DTYPES,
    load_weights,
    loading_dtype,
)
from willfit.formulas.weights.dequantized import on_machine
from willfit.formulas.weights.loaded import LoadedRow, LoadedWeights

__all__ = [
    "CACHED_ROTARY",
    "TABLE_DTYPES",
    "LoadedRow",
    "LoadedWeights",
    "load_weights",
    "loading_dtype",
    "on_machine",
]
