"""transformers' FP8 kernels: each allocates its output; inputs are quantised inside.

github.com/huggingface/kernels-community at 40d4194: finegrained-fp8 matmul.py, grouped.py,
batched.py (``new_empty`` of the output; `fp8_act_quant_inline`).
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def replacements() -> list[tuple[Any, str, Any]]:
    """The kernels that a GPU gets from the Hub, in place of what a CPU cannot load."""
    fp8: Any = sys.modules.get("transformers.integrations.finegrained_fp8")
    if not hasattr(fp8, "FineGrainedFP8"):  # of a model that has such layers it is loaded by now
        return []
    kernels = fp8.FineGrainedFP8(
        matmul=matmul, batched_matmul=batched_matmul, grouped_matmul=grouped_matmul
    )
    return [(fp8, "_FINEGRAINED_FP8", kernels), (fp8, "is_deepgemm_loadable", lambda **_: False)]


def matmul(
    rows: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,  # noqa: ARG001 -- the kernel's signature
    block_size: Any,  # noqa: ARG001
    dtype: torch.dtype,
    **_: Any,
) -> torch.Tensor:
    """(…, K) by (N, K) to (…, N)."""
    return rows.new_empty((*rows.shape[:-1], weight.shape[0]), dtype=dtype)


def grouped_matmul(rows: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Rows sorted by expert, (S, K) by (E, N, K) to (S, N), and where each expert's tiles begin."""
    tiles = rows.new_empty(weight.shape[0], dtype=torch.int32)
    out = rows.new_empty((rows.shape[0], weight.shape[1]))
    del tiles
    return out


def batched_matmul(rows: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Each row by its own expert: (S, K) by (E, N, K) to (S, N)."""
    return rows.new_empty((rows.shape[0], weight.shape[1]))
