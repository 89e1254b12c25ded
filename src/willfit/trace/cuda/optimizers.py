"""What optimizers of other packages do on a GPU that they would not do on the CPU."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from willfit.formulas.training.optimizers import PAGED_FROM


def replacements(name: str) -> list[tuple[Any, str, Any]]:
    """Functions by owner, for the optimizer of this name."""
    rows: list[tuple[Any, str, Any]] = [
        (torch.Tensor, "cuda", _already_there),
        (torch.cuda, "synchronize", _nothing),
    ]
    if any(part in name for part in ("bnb", "8bit", "paged", "ademamix", "lion")):
        rows += _bitsandbytes()
    return rows


def _bitsandbytes() -> list[tuple[Any, str, Any]]:
    """Paged states, and quantisation maps (bitsandbytes 0.50.2 optim/optimizer.py)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return []
    from bitsandbytes import functional
    from bitsandbytes.optim import optimizer

    return [
        (functional, "get_paged", _managed),
        (functional, "fill", _nothing),
        (functional, "prefetch_tensor", _nothing),
        (functional, "create_dynamic_map", _map),
        (optimizer.Optimizer8bit, "get_state_buffer", _state_buffer),
        (optimizer.GlobalOptimManager, "_instance", None),
    ]


def _already_there(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """``Tensor.cuda()``: all tensors of a trace stand for those of the GPU."""
    return tensor


def _nothing(*_: Any, **__: Any) -> None:
    """Nothing is there to wait for, or to write into."""


def _state_buffer(
    self: Any, parameter: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """A state on the GPU, or in managed memory, whatever the CPU would do."""
    if not self.is_paged or parameter.numel() < PAGED_FROM:
        return torch.zeros_like(parameter, dtype=dtype)
    return _managed(*parameter.shape, dtype=dtype)


def _managed(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:  # noqa: ARG001
    """Memory of cudaMallocManaged, outside of PyTorch's allocator: not recorded."""
    with _disable_current_modes():
        made: Any = torch.empty(shape, dtype=dtype, device="meta")
    made.is_paged = True
    return made  # type: ignore[no-any-return]


def _map(*_: Any, **__: Any) -> torch.Tensor:
    """A quantisation map: 256 values, whichever they are."""
    return torch.empty(256)
