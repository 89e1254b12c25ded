"""``torch.nn.functional.rms_norm`` as CUDA has it: one kernel, where the CPU's is six operators.

ATen native/layer_norm.cpp `rms_norm_symint`, cuda/layer_norm_kernel.cu: since torch 2.9, where
input and weight are of one type. Kept for backward are the input, the weight and a float32 for
every row, 4·M; backward makes its gradient contiguous and gives out M·N·e and N·e.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from willfit.scenario.stack import Stack
from willfit.trace.cuda.kernels import Kernel

KEY: Final = "AutogradCPU"
"""Above autograd and below autocast, which makes its arguments float32 first."""
FUSED_SINCE: Final = "2.9"


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, rows: int) -> torch.Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        rstd = torch.empty(rows, dtype=torch.float32, device=x.device)
        ctx.save_for_backward(x, weight, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        weight = ctx.saved_tensors[1]
        gradient = gradients[0].contiguous()
        for_x = torch.empty_like(gradient) if ctx.needs_input_grad[0] else None
        for_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        return for_x, for_weight, None


def _rms_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    if weight is not None and weight.dtype != x.dtype:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + (eps or 0.0))
        return (wide * scale).to(x.dtype) * weight
    rows = x.numel() // math.prod(normalized_shape) if x.numel() else 0
    out: torch.Tensor = _Fused.apply(x, weight, rows)  # type: ignore[no-untyped-call]
    return out


def rows(stack: Stack) -> Mapping[str, Kernel]:
    """Kernels by operator; none for a release that has no such kernel."""
    return {"rms_norm": _rms_norm} if stack.at_least("torch", FUSED_SINCE) else {}
