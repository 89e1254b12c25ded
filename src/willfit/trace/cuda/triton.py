"""Triton kernels in a trace: they allocate nothing themselves, and write into what is there."""

from __future__ import annotations

import importlib
import types
from typing import Any

import torch

from willfit.scenario.machine import Gpu


def launches() -> list[tuple[Any, str, Any]]:
    """Every way to launch a kernel, with what takes its place; none where Triton is missing."""
    jit: Any = importlib.import_module("triton.runtime.jit")
    autotuner: Any = importlib.import_module("triton.runtime.autotuner")
    return [
        (jit.JITFunction, "run", _launched),
        (autotuner.Autotuner, "run", _launched),
        (autotuner.Heuristics, "run", _launched),
    ]


def _launched(*_: Any, **__: Any) -> None:
    """A kernel's outputs were allocated by its caller."""


def liger(gpu: Gpu | None) -> list[tuple[Any, str, Any]]:
    """Liger 0.8.5 ops/fused_linear_cross_entropy.py where it asks whether it is on CUDA."""
    fused: Any = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    rows: list[tuple[Any, str, Any]] = [(fused, "torch", _Torch(gpu is None or gpu.sm >= 80))]
    if hasattr(fused, "_can_use_mm_out"):
        rows.append((fused, "_can_use_mm_out", _reuses_logits))
    return rows


def _reuses_logits(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    """One buffer of logits for all chunks, but where autocast would cast (`_can_use_mm_out`)."""
    if torch.is_grad_enabled() or hidden.dtype != weight.dtype:
        return False
    return not torch.is_autocast_enabled("cpu") or (hidden.dtype == torch.get_autocast_dtype("cpu"))


class _Torch(types.ModuleType):
    """``torch`` for that module alone: products added in place, one comparison without a value."""

    def __init__(self, adds_in_place: bool) -> None:
        super().__init__("torch")
        self._adds_in_place = adds_in_place

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def mm(self, left: torch.Tensor, right: torch.Tensor, **given: Any) -> Any:
        """A sum with a product is ``addmm(out=…)`` on sm_80 and later: nothing is added here."""
        half = left.dtype in (torch.float16, torch.bfloat16)
        if not given and self._adds_in_place and half:
            return torch.zeros((), dtype=left.dtype)
        return torch.mm(left, right, **given)

    def equal(self, *_: torch.Tensor) -> bool:
        """Whether the loss is the last thing: the gradient is else scaled in place."""
        return False


def chunked_logprob() -> list[tuple[Any, str, Any]]:
    """TRL 1.16 kernels/chunked_logprob.py with its kernels, and sums added in place."""
    module: Any = importlib.import_module("trl.kernels.chunked_logprob")
    return [(module, "_use_triton", _on_gpu), (module, "_addmm_fp32", _launched)]


def _on_gpu(_: torch.device) -> bool:
    return True
