"""Which kernels optimizers and clipping take where the caller names none: on CUDA, lists at once.

torch 2.13 optim/optimizer.py (`_default_to_fused_or_foreach`), nn/utils/clip_grad.py and
utils/_foreach_utils.py (`_has_foreach_support`): foreach for plain tensors on CUDA; fused only
where it is asked for. Fake tensors are of another class, and would take a loop over tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grad


def replacements() -> list[tuple[Any, str, Any]]:
    """Functions by owner: every module of ``torch.optim`` has its own name for the same one."""
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith("torch.optim") and hasattr(module, "_default_to_fused_or_foreach")
    ]
    return [
        *((module, "_default_to_fused_or_foreach", default_kernels) for module in modules),
        (clip_grad, "_has_foreach_support", has_foreach),
    ]


def default_kernels(
    tensors: Sequence[torch.Tensor | None], differentiable: bool, use_fused: bool = False
) -> tuple[bool, bool]:
    """(fused, foreach) as torch chooses them for tensors on CUDA."""
    if differentiable:
        return False, False
    fused = use_fused and all(
        tensor is None or torch.is_floating_point(tensor) for tensor in tensors
    )
    return fused, not fused


def has_foreach(_: Sequence[torch.Tensor], device: torch.device) -> bool:  # noqa: ARG001
    """Plain tensors on CUDA have it."""
    return True
