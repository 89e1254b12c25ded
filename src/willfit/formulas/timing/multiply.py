"""Matrix products as work, by how their weights are stored."""

from __future__ import annotations

from typing import Final

from willfit.dtypes import BFLOAT16, FLOAT32, DType
from willfit.formulas.timing.anatomy import Anatomy
from willfit.formulas.timing.efficiency import Kind
from willfit.formulas.timing.products import Products
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.work import Piece

INT8_OPERATORS: Final = 25
"""Operators more of a LLM.int8 product: statistics, two quantisations, outliers found (which waits
for the GPU), gathered and multiplied, casts and sums (bitsandbytes autograd/_functions.py
`MatMul8bitLt`). Three reports of decoding in 8 and 16 bit give 22 to 29 (RTX 3090, A100, T4)."""
INT8_BYTES: Final = 8
"""Bytes per input or output element that LLM.int8 moves around its product: input read 2, written
1; int32 product 4 written and read in part, 16-bit result 2 (ops.py `int8_scaled_mm`)."""
PACKED_OPERATORS: Final = 3
"""Operators more of a 4-bit product (bitsandbytes autograd/_functions.py `MatMul4Bit`), and of a
packed one that has views, a bias and a dequantisation of its own (AWQ, GPTQ in 8 bit)."""
EXLLAMA_OPERATORS: Final = 1
"""Operators more of a GPTQ product in 4 bit, one kernel and its views (exllama)."""
COPIED_EXPERTS: Final = 3
"""Bytes moved of an expert's weights that decoding copies side by side: read, written, read."""

Pieces = tuple[list[Piece], float]
"""Kernels, and the operators that call them."""


def product_pieces(
    products: Products,
    anatomy: Anatomy,
    tokens: float,
    dtype: DType,
    rates: Rates,
    *,
    decoding: bool = False,
) -> Pieces:
    """Forward through one set of products: 2·P·T FLOPs, their bytes, and their operators.

    Of E experts every token takes k: 2·P·T·k/E FLOPs; with T tokens E·(1 − (1 − k/E)^T) of them
    are read, if tokens choose independently.
    """
    share = reached = 1.0
    if products.part == "experts" and anatomy.num_experts:
        share = anatomy.experts_per_token / anatomy.num_experts
        reached = 1.0 - (1.0 - share) ** tokens
        if decoding and anatomy.copies_experts:
            reached = COPIED_EXPERTS * tokens * share
    flops = 2.0 * products.params * share * tokens
    read = products.num_bytes * reached
    moved = tokens * share * products.features
    if products.quantized:
        return _packed(products, anatomy, tokens, dtype, rates, flops, read, moved)
    kind: Kind = "float32" if dtype is FLOAT32 else "product"
    through = moved * dtype.block_bytes
    return [Piece(kind, flops, rates.product(dtype), read + through)], float(products.modules)


def _packed(
    products: Products,
    anatomy: Anatomy,
    tokens: float,
    dtype: DType,
    rates: Rates,
    flops: float,
    read: float,
    moved: float,
) -> Pieces:
    """Products whose weights are packed: fused for a few rows, else dequantised every time."""
    bnb = anatomy.quantization
    if bnb is not None and bnb.scheme == "int8":
        return _int8(products, dtype, rates, flops, read, moved)
    through = moved * dtype.block_bytes
    stored = anatomy.stored_method or ""
    if "fp8" in stored and rates.sm >= 89:
        rate = rates.flops.get("float8_e4m3fn", rates.product(dtype))
        return [Piece("dequantized", flops, rate, read + through)], 3.0 * products.modules
    compute = anatomy.compute_dtype if bnb is not None else dtype
    exllama = stored == "gptq" and anatomy.stored_bits == 4
    calls = float(products.modules * (1 + (EXLLAMA_OPERATORS if exllama else PACKED_OPERATORS)))
    rows = fused_4bit_rows(compute, rates.sm, anatomy) if bnb is not None else anatomy.packed_rows
    if tokens <= rows:
        return [Piece("gemv", flops, rates.product(compute), read + through)], calls
    unpacked = products.params * (read / products.num_bytes) * compute.block_bytes
    kind: Kind = "float32" if compute is FLOAT32 else "dequantized"
    return [
        Piece("memory", 0.0, 0.0, read + unpacked),
        Piece(kind, flops, rates.product(compute), unpacked + through),
    ], calls


def _int8(
    products: Products, dtype: DType, rates: Rates, flops: float, read: float, moved: float
) -> Pieces:
    """LLM.int8: an 8-bit product, and what is quantised and cast around it."""
    rate = rates.flops.get("int8", rates.product(dtype))
    pieces = [Piece("int8", flops, rate, read), Piece("memory", 0.0, 0.0, moved * INT8_BYTES)]
    return pieces, float(products.modules * (1 + INT8_OPERATORS))


def fused_4bit_rows(compute: DType, sm: int, anatomy: Anatomy) -> int:
    """Rows up to which bitsandbytes multiplies 4-bit weights without dequantising them.

    bitsandbytes 0.50.2 backends/cuda/ops.py `_gemm_4bit_use_custom_cuda`: float32, and cards below
    sm_75, under 8; the others have limits by shape, of which these are middle ones.
    """
    if not anatomy.fuses_4bit:
        return 1
    if compute is FLOAT32 or sm < 75 or (sm < 80 and compute is BFLOAT16):
        return 7
    return next(rows for since, rows in _FUSED_4BIT_ROWS if sm >= since)


_FUSED_4BIT_ROWS: Final = ((120, 64), (100, 16), (90, 32), (86, 128), (75, 64))
