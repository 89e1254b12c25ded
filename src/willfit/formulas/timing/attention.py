"""Attention: FLOPs and bytes of scores, by kernel."""

from __future__ import annotations

from typing import Final

from willfit.dtypes import DType
from willfit.scenario.model import Attention

EAGER_FORWARD_BYTES: Final = 26
"""Bytes moved per score by eager attention in 16 bit, forward: product written 2, scaled 4, mask
added 4, softmax read 2 and written 4, cast back 6, read by the second product 2, and 2 for what is
read twice (transformers 5.23 `eager_attention_forward`, one kernel a line)."""
EAGER_BACKWARD_BYTES: Final = 40
"""The same of backward: gradient of the product 2 + 2, of the cast 6, softmax backward 12, mask and
scale 8, and both products reading 2 + 2 each, saved probabilities 6."""
FLASH_BACKWARD: Final = 2.5
"""Backward of flash attention against forward: five products instead of two."""


def score_pairs(q_len: float, kv_len: float, attention: Attention) -> float:
    """(query, key) pairs that are looked at by one head of one sequence.

    Causal prefill: S²/2 (S(S+1)/2 to be exact, which it is here); a window w: each query sees at
    most w. Decoding (q_len 1): min(context, w). Bidirectional: q·k.
    """
    window = attention.window
    if not attention.causal:
        return q_len * min(kv_len, 2 * window if window else kv_len)
    past = kv_len - q_len
    if window is None or kv_len <= window:
        return q_len * past + q_len * (q_len + 1) / 2
    if attention.chunked:
        return q_len * min((window + 1) / 2, kv_len)
    growing = max(window - past, 0.0)  # queries that do not see a full window yet
    return (past * growing + growing * (growing + 1) / 2) + (q_len - growing) * window


def attention_flops(pairs: float, batch: float, attention: Attention) -> float:
    """2·(D + D_v) FLOPs per pair and head: queries by keys, then scores by values."""
    width = attention.head_dim + attention.v_head_dim
    return 2.0 * pairs * batch * attention.num_heads * width


def attention_forward(
    attention: Attention, *, batch: float, q_len: float, kv_len: float, dtype: DType, fused: bool
) -> tuple[float, float]:
    """(FLOPs, bytes moved) of one layer's attention in forward.

    A fused kernel moves q, k, v and the output once; eager attention (and SDPA's math path)
    computes every pair, masked or not, and moves B·H·S_q·S_kv scores many times.
    """
    size = dtype.block_bytes
    queries = batch * q_len * attention.num_heads * (attention.head_dim + attention.v_head_dim)
    keys = batch * kv_len * attention.num_kv_heads * (attention.head_dim + attention.v_head_dim)
    if fused:
        pairs = score_pairs(q_len, kv_len, attention)
        if attention.window is not None and kv_len > attention.window and q_len == 1:
            keys = keys * attention.window / kv_len
        return attention_flops(pairs, batch, attention), size * (queries + keys)
    scores = batch * attention.num_heads * q_len * kv_len
    groups = attention.num_heads / attention.num_kv_heads
    repeated = keys * groups if groups > 1 else 0.0
    flops = attention_flops(q_len * kv_len, batch, attention)
    moved = scores * EAGER_FORWARD_BYTES * size / 2 + size * (queries + keys + 2 * repeated)
    return flops, moved
