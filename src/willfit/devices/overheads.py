"""What a process takes on a GPU besides tensors: CUDA context, cuBLAS workspaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.devices.catalogue import all_gpus
from willfit.scenario.machine import Gpu
from willfit.units import MIB

CUBLAS_WORKSPACE: Final = 8_519_680
"""Bytes of one cuBLAS workspace before Hopper: 2 × 4 MiB + 8 × 16 KiB (torch 2.13 libtorch_cuda
`parseChosenWorkspaceSize`; seen in every published allocator snapshot of such a card)."""
CUBLAS_WORKSPACE_HOPPER: Final = 32 * MIB
"""The same on compute capability 9, 10 and 12."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """CUDA context, modules and libraries of one process."""

    nominal_bytes: int
    low_bytes: int
    high_bytes: int
    note: str


def context_of(gpu: Gpu) -> Context:
    """The context on this GPU: seen in public messages, else between those seen on its like.

    Error: ±20 MiB where seen; it grows with the kernels touched.
    """
    if gpu.vendor != "nvidia":
        return Context(nominal_bytes=0, low_bytes=0, high_bytes=0, note="not known here")
    if gpu.context_bytes is not None and gpu.context_range_bytes is not None:
        low, high = gpu.context_range_bytes
        return Context(
            nominal_bytes=gpu.context_bytes,
            low_bytes=low,
            high_bytes=high,
            note="CUDA context, modules and libraries, as seen on this card",
        )
    seen = [other for other in all_gpus() if other.context_range_bytes]
    same = [other for other in seen if other.compute_capability == gpu.compute_capability]
    kin = same or [other for other in seen if other.compute_capability[0] == gpu.sm // 10] or seen
    low = min(other.context_range_bytes[0] for other in kin if other.context_range_bytes)
    high = max(other.context_range_bytes[1] for other in kin if other.context_range_bytes)
    return Context(
        nominal_bytes=(low + high) // 2,
        low_bytes=low,
        high_bytes=high,
        note=f"CUDA context: not measured on this card, between those of {len(kin)} like it",
    )


def cublas_workspace_bytes(gpu: Gpu | None) -> int:
    """One cuBLAS workspace, counted in ``memory_allocated``; each thread's handle has its own."""
    if gpu is not None and gpu.vendor == "apple":
        return 0
    if gpu is not None and gpu.compute_capability[0] in (9, 10, 12):
        return CUBLAS_WORKSPACE_HOPPER
    return CUBLAS_WORKSPACE
