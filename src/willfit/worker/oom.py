"""Which exceptions mean that memory ran out, and which that the CUDA context is dead."""

from __future__ import annotations

from typing import Final

MESSAGES: Final = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "HIP out of memory",
    "HIP error: out of memory",
    "XPU out of memory",
    "MPS backend out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Failed to allocate memory",
)
"""Texts of running out of memory; accelerate 1.15's test has three of them (`shared/oom.md`)."""
TYPES: Final = ("OutOfMemoryError", "TorchOutOfMemoryError")
"""Class names; torch's own inherits from RuntimeError and may carry any text."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & set(TYPES) or isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


def is_dead_context(error: BaseException) -> bool:
    """Whether every later CUDA call of this process would fail too."""
    text = str(error)
    cuda = "CUDA error" in text or "device-side assert" in text or "AcceleratorError" in repr(error)
    return cuda and not is_out_of_memory(error)
