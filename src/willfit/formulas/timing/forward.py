"""One forward pass of a stack of layers, or of the head, as work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.timing.anatomy import MODEL_OPERATORS, Anatomy, Stack
from willfit.formulas.timing.attention import attention_forward
from willfit.formulas.timing.efficiency import Kind
from willfit.formulas.timing.multiply import product_pieces
from willfit.formulas.timing.products import Part
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.work import Piece, Work
from willfit.scenario.model import Attention

UNFUSED: Final = ("eager", "math")
"""Attention that makes every score in memory; SDPA's math path does it in float32."""
ONE_BLOCK_A_HEAD: Final = ("efficient", "flash")
"""Kernels of SDPA that, for one query, give each head one thread block, which streams all of that
head's keys and values alone: torch's memory-efficient kernel, its flash kernel before 2.2."""
SPLITS_SINCE: Final = "2.2"
"""torch release whose flash kernel splits the keys of one query over thread blocks."""
BLOCK_SHARE: Final = 0.5
"""One multiprocessor's equal share of the bandwidth, against what one block alone draws: the SDPA
and the FlashAttention columns of five Qwen1.5 sizes at 30,720 tokens differ by just that."""
EAGER_OPERATORS: Final = 6
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
    cross_len: float = 0.0
    """Positions of the encoder, which cross-attention sees."""
    chunks: int = 1
    """Parts that the positions are read in, one after the other."""

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
    fused: bool = False
    """Whether norms, rotary embedding and the gated product are one kernel each (Liger)."""


def forward(
    anatomy: Anatomy, part: Part, tokens: Tokens, types: Types, rates: Rates, *, kernel: str
) -> Work:
    """The layers (``layers``, experts with them; ``encoder``) or the ``head``."""
    pieces: list[Piece] = []
    operators = 0.0
    chunks = 1 if part == "head" else tokens.chunks
    count = tokens.kept if part == "head" else tokens.count / chunks
    for products in anatomy.parts[part]:
        more, calls = product_pieces(
            products, anatomy, count, types.product, rates, decoding=tokens.q_len == 1
        )
        pieces += more if chunks == 1 else [piece.times(chunks, chunks) for piece in more]
        operators += calls * chunks
    if part == "head":
        return Work(pieces=tuple(pieces), operators=operators + MODEL_OPERATORS * tokens.chunks)
    stack = anatomy.encoder if part == "encoder" and anatomy.encoder else anatomy.decoder
    pieces += layer_pieces(stack, tokens, types, rates, kernel=kernel)
    calls = stack.fused_operators if types.fused else stack.operators
    if kernel in UNFUSED:
        calls += EAGER_OPERATORS * stack.layers
    return Work(pieces=tuple(pieces), operators=operators + calls * chunks)


def layer_pieces(
    stack: Stack, tokens: Tokens, types: Types, rates: Rates, *, kernel: str
) -> list[Piece]:
    """Elementwise traffic and attention of all layers."""
    size = types.stream.block_bytes
    a_token = stack.fused_bytes if types.fused else stack.elementwise_bytes
    pieces = [Piece("memory", 0.0, 0.0, a_token * tokens.count * size / 2)]
    whole = tokens.pairs_len if tokens.pairs_len is not None else tokens.q_len
    seen = tokens.kv_len - tokens.q_len + whole
    fused = kernel not in UNFUSED
    dtype = FLOAT32 if kernel == "math" else types.product
    kind: Kind = "cache" if tokens.q_len == 1 else "attention" if fused else "eager"
    rate = rates.product(dtype)
    for layers, attention in stack.mixers:
        flops, moved = attention_forward(
            attention, batch=tokens.batch, q_len=whole, kv_len=seen, dtype=dtype, fused=fused
        )
        pieces.append(Piece(kind, layers * flops, rate, layers * moved))
        if attention.cross and tokens.cross_len:
            flops, moved = attention_forward(
                replace(attention, causal=False, window=None),
                batch=tokens.batch,
                q_len=whole,
                kv_len=tokens.cross_len,
                dtype=dtype,
                fused=fused,
            )
            pieces.append(Piece(kind, layers * flops, rate, layers * moved))
        if kind == "cache" and kernel in ONE_BLOCK_A_HEAD:
            pieces.append(_streamed(attention, layers, tokens, types, rates))
    return pieces


def _streamed(
    attention: Attention, layers: int, tokens: Tokens, types: Types, rates: Rates
) -> Piece:
    """Time of one head's keys and values through one multiprocessor, in whole waves of heads.

    As bytes of the whole card that take as long: k·(D + D_v)·e by M multiprocessors and the waves.
    """
    waves = math.ceil(tokens.batch * attention.num_heads / rates.multiprocessors)
    held = tokens.kv_len if attention.window is None else min(tokens.kv_len, attention.window)
    own = types.product.block_bytes * held * (attention.head_dim + attention.v_head_dim)
    return Piece("cache", 0.0, 0.0, layers * own * waves * rates.multiprocessors * BLOCK_SHARE)
