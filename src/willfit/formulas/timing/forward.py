"""One forward pass of a stack of layers and of the head, as work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from willfit.dtypes import BFLOAT16, FLOAT32, DType
from willfit.formulas.timing.anatomy import MODEL_OPERATORS, Anatomy, Stack
from willfit.formulas.timing.attention import attention_forward
from willfit.formulas.timing.efficiency import Kind
from willfit.formulas.timing.products import Part, Products
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.work import Piece, Work
from willfit.scenario.model import Attention

UNFUSED = ("eager", "math")
"""Attention that makes every score in memory; SDPA's math path does it in float32."""
ONE_BLOCK_A_HEAD = ("efficient", "flash")
"""Kernels of SDPA that, for one query, give each head one thread block, which streams all of that
head's keys and values alone: torch's memory-efficient kernel, its flash kernel before 2.2."""
SPLITS_SINCE = "2.2"
"""torch release whose flash kernel splits the keys of one query over thread blocks."""
BLOCK_SHARE = 0.5
"""Bandwidth that one multiprocessor's equal share is of what one block alone reaches: a block alone
has twice its share or so."""
FUSED_ROWS = 50
"""Rows up to which GPTQ's and AWQ's kernels multiply packed weights; more rows dequantise them
first (exllamav2 `MAX_Q_GEMM_ROWS` 50; AutoAWQ's GEMM the same idea)."""
FUSED_4BIT_SINCE = "0.50"
"""bitsandbytes release whose 4-bit kernels multiply several rows (pull request 1949); before, one
row was multiplied as it is packed and more dequantised the whole weight."""
INT8_OPERATORS = 25
"""Operators more of a LLM.int8 product: statistics, two quantisations, outliers found (which waits
for the GPU), gathered and multiplied, casts and sums (bitsandbytes autograd/_functions.py
`MatMul8bitLt`). Three reports of decoding in 8 and 16 bit give 22 to 29 (RTX 3090, A100, T4)."""
INT8_BYTES = 8
"""Bytes per input or output element that LLM.int8 moves around its product."""
NF4_OPERATORS = 3
"""Operators more of a 4-bit product (bitsandbytes 0.50.2 autograd/_functions.py `MatMul4Bit`), and
of a packed one that has views, a bias and a dequantisation of its own (AWQ, GPTQ in 8 bit)."""
EXLLAMA_OPERATORS = 1
"""Operators more of a GPTQ product in 4 bit, one kernel and its views (exllama)."""
EAGER_OPERATORS = 6
"""Operators more of eager attention: two products, scale, mask, softmax, cast, dropout."""


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
    if kernel in UNFUSED:
        operators += EAGER_OPERATORS * stack.layers
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
        if tokens.q_len == 1:
            kind = "cache"
            if kernel in ONE_BLOCK_A_HEAD:
                pieces.append(_streamed(attention, layers, tokens, types, rates))
        pieces.append(Piece(kind, layers * scores.flops, rate, layers * scores.num_bytes))
    return pieces


def _streamed(
    attention: Attention, layers: int, tokens: Tokens, types: Types, rates: Rates
) -> Piece:
    """Time of one head's keys and values through one multiprocessor, in whole waves of heads.

    As bytes of the whole card that take as long: k·D·2·e by M multiprocessors and by the waves.
    """
    heads = math.ceil(tokens.batch * attention.num_heads / rates.multiprocessors)
    size = types.product.block_bytes
    own = size * tokens.kv_len * (attention.head_dim + attention.v_head_dim)
    return Piece("cache", 0.0, 0.0, layers * own * heads * rates.multiprocessors * BLOCK_SHARE)


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
    rows = fused_4bit_rows(compute, rates.sm, anatomy) if bnb is not None else FUSED_ROWS
    exllama = anatomy.stored_method == "gptq" and anatomy.stored_bits == 4
    more = EXLLAMA_OPERATORS if exllama else NF4_OPERATORS
    calls = float(products.modules * (1 + more))
    if tokens <= rows:
        return [Piece("gemv", flops, rates.product(compute), read + through)], calls
    unpacked = float(products.params) * reached * compute.block_bytes
    kind: Kind = "float32" if compute is FLOAT32 else "dequantized"
    return [
        Piece("memory", 0.0, 0.0, read + unpacked),
        Piece(kind, flops, rates.product(compute), unpacked + through),
    ], calls


def fused_4bit_rows(compute: DType, sm: int, anatomy: Anatomy) -> int:
    """Rows up to which bitsandbytes multiplies 4-bit weights without dequantising them.

    bitsandbytes 0.50.2 backends/cuda/ops.py `_gemm_4bit_use_custom_cuda`: float32, and cards below
    sm_75, under 8; the others have limits by shape, of which these are the middle ones.
    """
    if not anatomy.fuses_4bit:
        return 1
    if compute is FLOAT32 or sm < 75 or (sm < 80 and compute is BFLOAT16):
        return 7
    return next(rows for since, rows in _FUSED_4BIT_ROWS if sm >= since)


_FUSED_4BIT_ROWS = ((120, 64), (100, 16), (90, 32), (86, 128), (75, 64))
