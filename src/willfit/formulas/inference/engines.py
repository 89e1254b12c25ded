"""Engines other than transformers: how much they compute at once, and what is not known of them."""

from __future__ import annotations

from typing import Final

from willfit.formulas.inference.settings import Settings
from willfit.scenario.machine import Gpu
from willfit.scenario.model import Architecture, Unknown
from willfit.units import GIB

ENGINE_TOKENS: Final = {"vllm": 2048, "llama.cpp": 512}
"""Tokens of one pass: vLLM's ``max_num_batched_tokens`` (arg_utils.py, API server; 8,192 on cards
of 70 GiB and more but A100), llama.cpp's ``n_ubatch`` (llama.h `llama_context_default_params`)."""
LARGE_CARD: Final = 70 * GIB
LARGE_CARD_TOKENS: Final = 8192


def tokens_at_once(engine: str, gpu: Gpu | None) -> int | None:
    """Tokens that an engine computes in one pass; None where it takes all (transformers)."""
    large = gpu is not None and gpu.capacity_bytes >= LARGE_CARD and "A100" not in gpu.name
    if engine == "vllm" and large:
        return LARGE_CARD_TOKENS
    return ENGINE_TOKENS.get(engine)


def engine_unknowns(
    engine: str, architecture: Architecture, gpu: Gpu | None, settings: Settings
) -> tuple[Unknown, ...]:
    """Up to every token's logits in float32, and llama.cpp's scores without flash attention."""
    tokens = tokens_at_once(engine, gpu) or 0
    heads = max((g.attention.num_heads for g in architecture.layers if g.attention), default=0)
    scores = 4 * heads * tokens * settings.context_len if engine == "llama.cpp" else 0
    return (
        Unknown(
            name=f"compute buffers of {engine}",
            low_bytes=0,
            high_bytes=4 * tokens * architecture.vocab_size + scores,
        ),
    )
