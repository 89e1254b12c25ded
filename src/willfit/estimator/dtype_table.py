"""The table that accelerate's users know: largest layer, total and training by dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from willfit.dtypes import parse_dtype
from willfit.errors import InputError
from willfit.formulas.largest_layer import largest_layer
from willfit.formulas.weights import LoadedWeights, load_weights
from willfit.results import DtypeRow
from willfit.scenario import Loading, ModelSpec, Quantization, Stack

DEFAULT_DTYPES: Final = ("float32", "bfloat16", "int8", "nf4")
"""Rows shown unless --dtypes asks for others; float16 takes what bfloat16 takes."""
QUANTIZED: Final = {
    "int8": Quantization(scheme="int8"),
    "int4": Quantization(scheme="nf4"),
    "nf4": Quantization(scheme="nf4"),
    "fp4": Quantization(scheme="fp4"),
    "nf4-double": Quantization(scheme="nf4", double_quant=True),
    "fp4-double": Quantization(scheme="fp4", double_quant=True),
}
"""Rows of the table that are quantisations. transformers has no plain int4: its 4-bit loading is
nf4 or fp4 with float32 absmax, so ``int4`` is nf4."""
ADAM_COPIES: Final = 4
"""Weights, gradients and two Adam states, all in the type of the weights: PyTorch's AdamW keeps
its states in the parameter's type (torch/optim/adam.py, ``zeros_like(p)``)."""


def dtype_rows(model: ModelSpec, stack: Stack, names: Sequence[str] | None) -> tuple[DtypeRow, ...]:
    """One row per dtype; a checkpoint that is already quantised has one row, as stored."""
    if model.quantization is not None or model.library == "gguf":
        if names:
            stored = (
                "GGUF"
                if model.library == "gguf"
                else str(model.quantization and model.quantization.method)
            )
            raise InputError(
                f"{model.id} is already quantised ({stored}), loaded as stored: leave --dtypes out"
            )
        return (_row(model, "as stored", load_weights(model, Loading(), stack)),)
    return tuple(_named_row(model, stack, name) for name in names or DEFAULT_DTYPES)


def _named_row(model: ModelSpec, stack: Stack, name: str) -> DtypeRow:
    """Quantised rows leave the rest in 16 bit, as transformers loads them."""
    wanted = name.strip().lower()
    quantization = QUANTIZED.get(wanted)
    if quantization is None:
        dtype = parse_dtype(wanted)
        if not dtype.is_floating:
            raise InputError(
                f"cannot show dtype {name[:40]!r}: expected float32, float16, bfloat16 or one of "
                f"{', '.join(QUANTIZED)}"
            )
        loading = Loading(dtype=dtype)
    else:
        half = model.stored_dtype if model.stored_dtype.block_bytes == 2 else parse_dtype("float16")
        loading = Loading(dtype=half, quantization=quantization)
    plain = replace(model, keep_in_fp32=()) if quantization is None else model
    return _row(model, wanted, load_weights(plain, loading, stack))


def _row(model: ModelSpec, name: str, weights: LoadedWeights) -> DtypeRow:
    total = weights.weight_bytes + weights.quantization_state_bytes
    return DtypeRow(
        dtype=name,
        largest_layer_bytes=largest_layer(model, weights)[1],
        total_bytes=total,
        training_adam_bytes=None if name in QUANTIZED or name == "as stored" else _adam(weights),
    )


def _adam(weights: LoadedWeights) -> int:
    """Four copies of the parameters, and the buffers once."""
    parameters = sum(r.total_bytes for r in weights.rows if r.row.is_parameter)
    buffers = sum(r.total_bytes for r in weights.rows if not r.row.is_parameter)
    return ADAM_COPIES * parameters + buffers
