"""Softmax as CUDA has it: float16 to float32 in one kernel, without a float32 copy of its input.

torch 2.13 native/SoftMax.cpp (`softmax`, `log_softmax`): where the input is `Half` and the type
asked for is `Float`; from bfloat16 a copy is made first, as on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from willfit.trace.cuda.kernels import Kernel, operator

KEY: Final = "AutogradCPU"
"""Above autograd, for the functions are made of others that it knows."""


def _fused(name: str) -> Kernel:
    kernel: Any = operator("_" + name)

    def function(tensor: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        fused = tensor.dtype == torch.float16 and dtype == torch.float32
        if not fused and dtype is not None:
            tensor = tensor.to(dtype)
        return kernel(tensor, dim, fused)  # type: ignore[no-any-return]

    return function


ROWS: Final[Mapping[str, Kernel]] = {
    "softmax.int": _fused("softmax"),
    "log_softmax.int": _fused("log_softmax"),
}
"""Kernels by operator."""
