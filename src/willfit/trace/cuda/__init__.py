"""What a GPU does otherwise than the CPU that the trace runs on.

Functions are replaced for the duration, not intercepted by a function mode: that is inactive
while backward recomputes, so checkpointed layers would take other kernels than the forward pass.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from willfit.scenario.stack import Stack
from willfit.scenario.workload import SdpaKernel
from willfit.trace.cuda import bitsandbytes, boft, fbgemm, foreach, fp8, rms_norm, softmax
from willfit.trace.cuda.attention import CudaAttention, GpuOf, dropout
from willfit.trace.cuda.autocast import cuda_autocast
from willfit.trace.cuda.flash_attention import flash_library
from willfit.trace.cuda.flex_attention import flex_attention
from willfit.trace.cuda.hidden import TEMPORARIES, Hidden, Inside
from willfit.trace.cuda.kernels import registered, replaced

__all__ = [
    "CudaAttention",
    "Hidden",
    "cuda_choices",
    "flash_library",
    "products",
    "replaced",
    "temporaries",
]


def temporaries(*, quantized: bool) -> dict[Any, Hidden]:
    """What CUDA kernels allocate besides their outputs, by operator.

    ``quantized``: those of bitsandbytes too, whose import takes its time.
    """
    return {**TEMPORARIES, **(bitsandbytes.temporaries() if quantized else {})}


def products(*, quantized: bool) -> dict[Any, Inside]:
    """Operators beside ATen's own whose CUDA form calls cuBLAS, by when it does."""
    return bitsandbytes.products() if quantized else {}


def _experts(gpu_of: GpuOf) -> list[tuple[Any, str, Any]]:
    """Experts are one grouped product on sm_80 and later (integrations/moe.py).

    Other types than bfloat16 go through one product after the other inside the same call, which
    has no meta kernel; transformers' own fallback gives the same output.
    """
    if importlib.util.find_spec("transformers.integrations.moe") is None:
        return []
    moe: Any = importlib.import_module("transformers.integrations.moe")
    if not hasattr(moe, "_can_use_grouped_mm"):
        return []

    def can_use(rows: torch.Tensor, weight: torch.Tensor, _: torch.Tensor) -> bool:
        gpu = gpu_of(rows)
        recent = gpu is None or gpu.vendor != "nvidia" or gpu.sm >= 80
        return recent and rows.dtype == weight.dtype == torch.bfloat16

    return [(moe, "_can_use_grouped_mm", can_use)]


def _masks() -> list[tuple[Any, str, Any]]:
    """Releases that make masks in one place look there for packed sequences (since 4.54)."""
    if importlib.util.find_spec("transformers.masking_utils") is None:
        return []
    masks: Any = importlib.import_module("transformers.masking_utils")
    name = "find_packed_sequence_indices"
    return [(masks, name, _not_packed)] if hasattr(masks, name) else []


def _not_packed(position_ids: Any) -> None:
    """One sequence a row: a fake tensor's positions cannot be read, and look packed."""


"""Stands for a function that only a GPU's library defines."""


@contextmanager
def cuda_choices(
    gpu_of: GpuOf,
    stack: Stack,
    *,
    quantized: bool,
    implementation: str | None = None,
    packed: bool = False,
    sdpa_kernel: SdpaKernel | None = None,
) -> Iterator[CudaAttention]:
    """The functions of a tensor's GPU in place of the CPU's; sm_80 where none is named.

    ``implementation``: the model's ``attn_implementation``. ``packed``: several sequences a row.
    ``sdpa_kernel``: the only one that SDPA may take.
    """
    attention = CudaAttention(gpu_of, stack, sdpa_kernel)
    rows: list[tuple[Any, str, Any]] = [
        (functional, "scaled_dot_product_attention", attention),
        (functional, "dropout", dropout),
        *([] if packed else _masks()),
        *(bitsandbytes.replacements() if quantized else ()),
        *boft.replacements(),
        *fp8.replacements(),
        *fbgemm.replacements(),
        *_experts(gpu_of),
        *foreach.replacements(),
    ]
    with (
        replaced(rows),
        registered(softmax.KEY, softmax.ROWS),
        registered(rms_norm.KEY, rms_norm.rows(stack)),
        cuda_autocast(),
        flash_library(implementation, attention),
        flex_attention(implementation, attention),
    ):
        yield attention
