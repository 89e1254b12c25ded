"""What a GPU does otherwise than the CPU that the trace runs on.

Functions are replaced for the duration, not intercepted by a function mode: that is inactive
while backward recomputes, so checkpointed layers would take other kernels than the forward pass.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import masking_utils

from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack
from willfit.trace.cuda import bitsandbytes
from willfit.trace.cuda.attention import CudaAttention, dropout, softmax
from willfit.trace.cuda.flash_attention import flash_library
from willfit.trace.cuda.flex_attention import flex_attention
from willfit.trace.cuda.hidden import TEMPORARIES, Hidden
from willfit.trace.cuda.replaced import replaced

__all__ = ["CudaAttention", "Hidden", "cuda_choices", "flash_library", "temporaries"]


def temporaries(*, quantized: bool) -> dict[Any, Hidden]:
    """What CUDA kernels allocate besides their outputs, by operator.

    ``quantized``: those of bitsandbytes too, whose import takes its time.
    """
    return {**TEMPORARIES, **(bitsandbytes.temporaries() if quantized else {})}


def _experts(gpu: Gpu | None) -> list[tuple[Any, str, Any]]:
    """Experts are one grouped product on sm_80 and later (integrations/moe.py).

    Other types than bfloat16 go through one product after the other inside the same call, which
    has no meta kernel; transformers' own fallback gives the same output.
    """
    if importlib.util.find_spec("transformers.integrations.moe") is None:
        return []
    moe: Any = importlib.import_module("transformers.integrations.moe")
    if not hasattr(moe, "_can_use_grouped_mm"):
        return []
    recent = gpu is None or gpu.vendor != "nvidia" or gpu.sm >= 80

    def can_use(rows: torch.Tensor, weight: torch.Tensor, _: torch.Tensor) -> bool:
        return recent and rows.dtype == weight.dtype == torch.bfloat16

    return [(moe, "_can_use_grouped_mm", can_use)]


def _not_packed(position_ids: Any) -> None:
    """One sequence a row: a fake tensor's positions cannot be read, and look packed."""


@contextmanager
def cuda_choices(
    gpu: Gpu | None, stack: Stack, *, quantized: bool, implementation: str | None = None
) -> Iterator[CudaAttention]:
    """The functions of this GPU in place of the CPU's; sm_80 where none is named.

    ``implementation``: the model's ``attn_implementation``.
    """
    attention = CudaAttention(gpu, stack)
    choices: list[tuple[Any, str, Any]] = [
        (functional, "scaled_dot_product_attention", attention),
        (functional, "dropout", dropout),
        (functional, "softmax", softmax),
        (masking_utils, "find_packed_sequence_indices", _not_packed),
        *(bitsandbytes.replacements() if quantized else ()),
        *_experts(gpu),
    ]
    with ExitStack() as entered:
        for owner, name, value in choices:
            entered.enter_context(replaced(owner, name, value))
        entered.enter_context(flash_library(implementation, attention))
        entered.enter_context(flex_attention(implementation, attention))
        yield attention
