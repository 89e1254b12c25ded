"""What a GPU does otherwise than the CPU that the trace runs on.

Functions are replaced for the duration, not intercepted by a function mode: that is inactive
while backward recomputes, so checkpointed layers would take other kernels than the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn import functional
from transformers import masking_utils

from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack
from willfit.trace.cuda import bitsandbytes
from willfit.trace.cuda.attention import CudaAttention, dropout
from willfit.trace.cuda.hidden import TEMPORARIES, Hidden

__all__ = ["CudaAttention", "Hidden", "cuda_choices", "temporaries"]


def temporaries() -> dict[Any, Hidden]:
    """What CUDA kernels allocate besides their outputs, by operator."""
    return {**TEMPORARIES, **bitsandbytes.temporaries()}


def _bitsandbytes() -> list[tuple[Any, str, Any]]:
    try:
        import bitsandbytes as library
    except ImportError:
        return []
    return [(library, "matmul", bitsandbytes.matmul)]


def _not_packed(position_ids: Any) -> None:
    """One sequence a row: a fake tensor's positions cannot be read, and look packed."""


@contextmanager
def cuda_choices(gpu: Gpu | None, stack: Stack) -> Iterator[CudaAttention]:
    """The functions of this GPU in place of the CPU's; sm_80 where none is named."""
    attention = CudaAttention(gpu, stack)
    replaced: list[tuple[Any, str, Any]] = [
        (functional, "scaled_dot_product_attention", attention),
        (functional, "dropout", dropout),
        (masking_utils, "find_packed_sequence_indices", _not_packed),
        *_bitsandbytes(),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield attention
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)
