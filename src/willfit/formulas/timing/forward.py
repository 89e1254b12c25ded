"""One forward pass of a stack of layers and of the head, as work."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.gemm import CUSTOM_KERNEL_ROWS
from willfit.formulas.timing.anatomy import MODEL_OPERATORS, Anatomy, Stack
from willfit.formulas.timing.attention import attention_forward
from willfit.formulas.timing.efficiency import Kind
from willfit.formulas.timing.products import Part, Products
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.work import Piece, Work

UNFUSED = ("eager", "math")
"""Attention that makes every score in memory; SDPA's math path does it in float32."""
FUSED_ROWS = 50
"""Rows up to which GPTQ's and AWQ's kernels multiply packed weights; more rows dequantise them
first (exllamav2 `MAX_Q_GEMM_ROWS` 50; AutoAWQ's GEMM the same idea)."""
INT8_OPERATORS = 14
"""Operators more of a LLM.int8 product: statistics, two quantisations, outliers found and
multiplied, two casts, sums (bitsandbytes 0.50.2 autograd/_functions.py `MatMul8bitLt`)."""
INT8_BYTES = 8
"""Bytes per input or output element that LLM.int8 moves around its product."""
NF4_OPERATORS = 4
"""Operators more of a 4-bit product (bitsandbytes 0.50.2 autograd/_functions.py `MatMul4Bit`)."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What one pass reads."""

    batch: float
    q_len: float
    """Positions per sequence that are computed."""
    kv_len: float
    """Positions per sequence that attention sees."""
    kept: float
    """Positions of the whole batch that get logits."""
    pairs_len: float | None = None
    """Root mean square length, where attention's length differs from the mean one."""

    @property
    def count(self) -> float:
        """B·S."""
        return self.batch * self.q_len


@dataclass(frozen=True, kw_only=True)
class Types:
    """Types that a pass computes in."""

    product: DType
    """Of the products: the model's, or autocast's."""
    stream: DType
    """Of what goes between the products."""
    head: DType


def forward(
    anatomy: Anatomy, part: Part, tokens: Tokens, types: Types, rates: Rates, *, kernel: str
) -> Work:
    """The layers (``layers``, experts with them; ``encoder``) or the ``head``."""
    pieces: list[Piece] = []
    operators = 0.0
    for products in anatomy.products:
        if products.part == part or (part == "layers" and products.part == "experts"):
            count = tokens.kept if part == "head" else tokens.count
            dtype = types.head if part == "head" else types.product
            more, calls = product_pieces(products, anatomy, count, dtype, rates)
            pieces += more
            operators += calls
    if part == "head":
        return Work(pieces=tuple(pieces), operators=operators + MODEL_OPERATORS)
    stack = anatomy.encoder if part == "encoder" and anatomy.encoder else anatomy.decoder
    pieces += layer_pieces(stack, tokens, types, rates, kernel=kernel)
    return Work(pieces=tuple(pieces), operators=operators + stack.operators)


def layer_pieces(
    stack: Stack, tokens: Tokens, types: Types, rates: Rates, *, kernel: str
) -> list[Piece]:
    """Elementwise traffic and attention of all layers."""
    size = types.stream.block_bytes
    traffic = stack.elementwise_bytes * tokens.count * size / 2
    pieces = [Piece("memory", 0.0, 0.0, traffic)]
    whole = tokens.pairs_len if tokens.pairs_len is not None else tokens.q_len
    seen = tokens.kv_len - tokens.q_len + whole
    for layers, attention in stack.mixers:
        dtype = FLOAT32 if kernel == "math" else types.product
        fused = kernel not in UNFUSED
        scores = attention_forward(
            attention, batch=tokens.batch, q_len=whole, kv_len=seen, dtype=dtype, fused=fused
        )
        rate = rates.product(dtype)
        kind: Kind = "attention" if fused else "eager"
        pieces.append(Piece(kind, layers * scores.flops, rate, layers * scores.num_bytes))
    return pieces


def product_pieces(
    products: Products, anatomy: Anatomy, tokens: float, dtype: DType, rates: Rates
) -> tuple[list[Piece], float]:
    """Forward through one set of products: 2·P·T FLOPs, their bytes, and their operators.

    Of E experts every token takes k: 2·P·T·k/E FLOPs; with T tokens E·(1 − (1 − k/E)^T) of them
    are read, if tokens choose independently.
    """
    share = reached = 1.0
    if products.part == "experts" and anatomy.num_experts:
        share = anatomy.experts_per_token / anatomy.num_experts
        reached = 1.0 - (1.0 - share) ** tokens
    flops = 2.0 * products.params * share * tokens
    read = products.num_bytes * reached
    moved = tokens * share * products.features
    if not products.quantized:
        kind: Kind = "float32" if dtype is FLOAT32 else "product"
        through = moved * dtype.block_bytes
        return [Piece(kind, flops, rates.product(dtype), read + through)], float(products.modules)
    return _quantized(products, anatomy, tokens, dtype, rates, (flops, read, moved, reached))


def _quantized(
    products: Products,
    anatomy: Anatomy,
    tokens: float,
    dtype: DType,
    rates: Rates,
    amounts: tuple[float, float, float, float],
) -> tuple[list[Piece], float]:
    """Products whose weights are packed: fused for a few rows, else dequantised every time."""
    flops, read, moved, reached = amounts
    through = moved * dtype.block_bytes
    bnb = anatomy.quantization
    if bnb is not None and bnb.scheme == "int8":
        rate = rates.flops.get("int8", rates.product(dtype))
        pieces = [
            Piece("int8", flops, rate, read),
            Piece("memory", 0.0, 0.0, moved * INT8_BYTES),
        ]
        return pieces, float(products.modules * (1 + INT8_OPERATORS))
    if anatomy.stored_method is not None and "fp8" in anatomy.stored_method and rates.sm >= 89:
        rate = rates.flops.get("float8_e4m3fn", rates.product(dtype))
        return [Piece("dequantized", flops, rate, read + through)], 3.0 * products.modules
    compute = anatomy.compute_dtype if bnb is not None else dtype
    calls = float(products.modules * (1 + NF4_OPERATORS))
    rows = CUSTOM_KERNEL_ROWS if bnb is not None else FUSED_ROWS
    if tokens <= rows:
        return [Piece("gemv", flops, rates.product(compute), read + through)], calls
    unpacked = float(products.params) * reached * compute.block_bytes
    kind: Kind = "float32" if compute is FLOAT32 else "dequantized"
    return [
        Piece("memory", 0.0, 0.0, read + unpacked),
        Piece(kind, flops, rates.product(compute), unpacked + through),
    ], calls
