"""Inference settings with every default filled in as the library would, and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.dtypes import DType
from willfit.formulas.attention import resolve_implementation as resolve_attention
from willfit.formulas.positions import require_positions
from willfit.scenario.model import Architecture
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Inference

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

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return max(self.context_len - self.new_tokens, 1)


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
        context = min(DEFAULT_CONTEXT, longest or DEFAULT_CONTEXT)
        assumptions.append(f"context {context} tokens, batch {inference.batch_size}")
    elif longest is not None and context > longest:
        require_positions(architecture, context)
        assumptions.append(f"context {context} is longer than the {longest} the model allows")
    new_tokens = inference.max_new_tokens or 1
    implementation, notes = resolve_attention(inference.attn, architecture, stack)
    return Settings(
        batch=inference.batch_size,
        context_len=context,
        new_tokens=min(new_tokens, context),
        dtype=dtype,
        kv_dtype=inference.kv_dtype or dtype,
        implementation=implementation,
        assumptions=(*assumptions, *notes),
    )
