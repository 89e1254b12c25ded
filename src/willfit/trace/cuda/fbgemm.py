"""FBGEMM's two operators: the input in 8 bit with a scale a row, and the product in bfloat16.

github.com/pytorch/FBGEMM fbgemm_gpu/experimental/gen_ai/src/quantize/quantize.cu
`quantize_fp8_per_row`, cutlass_extensions `f8f8bf16_rowwise`. The product's workspace is not known.
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def replacements() -> list[tuple[Any, str, Any]]:
    """In place of operators that only a GPU's library has."""
    module: Any = sys.modules.get("transformers.integrations.fbgemm_fp8")
    if module is None or hasattr(torch.ops.fbgemm, "f8f8bf16_rowwise"):
        return []
    return [
        (module, "quantize_fp8_per_row", quantize),
        (torch.ops.fbgemm, "f8f8bf16_rowwise", product),
    ]


def quantize(rows: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, K) to (M, K) in one byte each, and M float32 scales."""
    return torch.empty_like(rows, dtype=torch.float8_e4m3fn), rows.new_empty(
        rows.shape[0], dtype=torch.float32
    )


def product(rows: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """(M, K) by (N, K) to (M, N)."""
    return rows.new_empty((rows.shape[0], weight.shape[0]), dtype=torch.bfloat16)
