"""Inference settings with every default filled in as the library would, and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.dtypes import DType
from willfit.errors import InputError
from willfit.formulas.attention import resolve_implementation as resolve_attention
from willfit.formulas.positions import require_positions
from willfit.scenario.model import Architecture
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Inference

CHUNKED_SINCE: Final = "4.51"
"""transformers release whose `generate` has ``prefill_chunk_size``."""
STATES_CARRIED_SINCE: Final = "5.15"
"""transformers in which every scan but Mamba-1's goes on from piece to piece of a prompt."""
DEFAULT_CONTEXT: Final = 4096
"""Context where none is given, or the model's maximum if that is shorter."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """An Inference with every default filled in."""

    batch: int
    context_len: int
    new_tokens: int
    dtype: DType
    kv_dtype: DType
    implementation: str
    assumptions: tuple[str, ...]
    chunk: int | None = None
    """Tokens of the prompt that are read at a time; None where it is read whole."""

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return max(self.context_len - self.new_tokens, 1)


def default_context(architecture: Architecture | None) -> int:
    """Prompt plus new tokens where none are given."""
    longest = architecture.max_context if architecture is not None else None
    return min(DEFAULT_CONTEXT, longest or DEFAULT_CONTEXT)


def fill_defaults(
    architecture: Architecture | None, inference: Inference, dtype: DType, stack: Stack
) -> Settings:
    """Context min(4096, the model's maximum), one new token, the model's type for the cache.

    Without an architecture the attention stays as given, for the class itself to decide.
    """
    longest = architecture.max_context if architecture is not None else None
    assumptions: list[str] = []
    context = inference.context_len
    if context is None:
        context = default_context(architecture)
        assumptions.append(f"context {context} tokens, batch {inference.batch_size}")
    elif longest is not None and context > longest:
        require_positions(architecture, context)
        assumptions.append(f"context {context} is longer than the {longest} the model allows")
    new_tokens = inference.max_new_tokens or 1
    implementation, notes = resolve_attention(inference.attn, architecture, stack)
    new_tokens = min(new_tokens, context)
    chunk = _chunk(inference, architecture, stack)
    if chunk is not None and chunk >= context - new_tokens:
        chunk = None
    if chunk is not None:
        assumptions.append(f"the prompt read {chunk} tokens at a time (prefill_chunk_size)")
    return Settings(
        batch=inference.batch_size,
        context_len=context,
        new_tokens=new_tokens,
        dtype=dtype,
        kv_dtype=inference.kv_dtype or dtype,
        implementation=implementation,
        assumptions=(*assumptions, *notes),
        chunk=chunk,
    )


def _chunk(inference: Inference, architecture: Architecture | None, stack: Stack) -> int | None:
    """``prefill_chunk_size`` where `generate` would follow it; raises `InputError` elsewhere."""
    chunk = inference.prefill_chunk_size
    if chunk is None:
        return None
    if not stack.at_least("transformers", CHUNKED_SINCE):
        raise InputError(
            f"--prefill-chunk-size came with transformers {CHUNKED_SINCE} and the stack has "
            f"{stack.versions['transformers']}: leave it out"
        )
    if architecture is not None and (architecture.encoder_layers or not architecture.is_decoder):
        raise InputError(
            "--prefill-chunk-size is for models that read their prompt with a decoder: leave it out"
        )
    if architecture is not None and not any(group.attention for group in architecture.layers):
        raise InputError(
            "--prefill-chunk-size reads a prompt into a KV cache, and no layer of this model has "
            "one: leave it out"
        )
    return chunk
