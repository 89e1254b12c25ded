"""BOFT's block diagonals as PEFT's CUDA extension makes them: nothing beside the output.

PEFT tuners/boft/fbd/fbd_cuda_kernel.cu, which PEFT compiles where there is a GPU and ninja. Without
it PEFT takes a loop of copies and ignores ``boft_n_butterfly_factor``.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch


class FastBlockDiagonal:
    """The extension's two functions, by the shapes that they return."""

    @staticmethod
    def forward(blocks: torch.Tensor) -> list[torch.Tensor]:
        """(z, N, b, b) blocks to (z, N·b, N·b) matrices that are zero elsewhere."""
        z, num_blocks, size, _ = blocks.shape
        return [blocks.new_zeros((z, num_blocks * size, num_blocks * size))]

    @staticmethod
    def backward(gradient: torch.Tensor, blocks: torch.Tensor) -> list[torch.Tensor]:  # noqa: ARG004
        """The blocks of a gradient."""
        return [torch.zeros_like(blocks)]


def replacements() -> list[tuple[Any, str, Any]]:
    """Where PEFT is in use: (owner, name, what takes their place)."""
    if "peft" not in sys.modules:
        return []
    layer: Any = importlib.import_module("peft.tuners.boft.layer")
    return [(layer, "_FBD_CUDA", FastBlockDiagonal)]
