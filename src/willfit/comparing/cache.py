"""What a token adds to a KV cache, layer kind by layer kind, with the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from willfit.changes.current import context_of, dtype_of
from willfit.dtypes import DType
from willfit.scenario import Scenario
from willfit.scenario.model import Attention
from willfit.units import format_bytes


def cache_words(scenario: Scenario) -> str:
    """``32 layers × 2 × 8 KV heads × 128 × 2 B = 128.0 KiB a token``; empty without a cache.

    Sliding layers hold their window and no more, which is said; how an engine rounds is not.
    """
    architecture, inference = scenario.model.architecture, scenario.workload.inference
    if architecture is None or inference is None or not architecture.is_decoder:
        return ""
    dtype = inference.kv_dtype or dtype_of(scenario)
    kinds: dict[str, list[tuple[int, Attention]]] = {}
    for group in architecture.layers:
        if group.attention is not None and not group.shares_cache:
            kinds.setdefault(_each(group.attention), []).append((group.count, group.attention))
    return ", and ".join(_kind(each, alike, dtype) for each, alike in kinds.items())


def _each(attention: Attention) -> str:
    """The elements that a token adds to a layer, as a product."""
    heads, width, other = attention.num_kv_heads, attention.head_dim, attention.v_head_dim
    if attention.kv_lora_rank is not None:
        return f"({attention.kv_lora_rank:,} + {attention.qk_rope_head_dim:,})"
    if width == other:
        return f"2 × {heads} KV heads × {width}"
    return f"{heads} KV heads × ({width} + {other})"


def _elements(attention: Attention) -> int:
    if attention.kv_lora_rank is not None:
        return attention.kv_lora_rank + attention.qk_rope_head_dim
    return attention.num_kv_heads * (attention.head_dim + attention.v_head_dim)


def _kind(each: str, alike: Sequence[tuple[int, Attention]], dtype: DType) -> str:
    """Layers whose tokens take the same, and how many of them forget old tokens."""
    count = sum(number for number, _ in alike)
    total = format_bytes(count * dtype.num_bytes(_elements(alike[0][1])))
    size = f"{dtype.block_bytes} B" if dtype.block_size == 1 else dtype.name
    windows = [(number, one.window) for number, one in alike if one.window is not None]
    kept = "".join(
        f", {number} of them for {window:,} tokens at most" for number, window in windows
    )
    return f"{count} layers × {each} × {size} = {total} a token{kept}"


def tokens_words(scenario: Scenario) -> str:
    """``batch 8 × 4,096 tokens``; empty without an inference."""
    inference = scenario.workload.inference
    if inference is None:
        return ""
    return f"batch {inference.batch_size} × {context_of(scenario):,} tokens"
