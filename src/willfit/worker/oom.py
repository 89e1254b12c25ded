"""Which exceptions mean that memory ran out, and which that this process can go on no more."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

MESSAGES: Final = (
    # PyTorch: CUDA, ROCm, XPU, MPS
    "cuda out of memory",
    "cuda error: out of memory",
    "cuda driver error: out of memory",
    "cuda runtime error (2) : out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized when calling `cublascreate",
    "cublas_status_not_initialized when calling cublascreate",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",
    "cudnn_status_internal_error_host_allocation_failed",
    "cudnn error: cudnn_status_not_supported",
    "cudnn error: cudnn_status_internal_error",
    "triton error [cuda]: out of memory",
    "hip out of memory",
    "hip error: out of memory",
    "hipblas_status_alloc_failed",
    "miopenstatusallocfailed",
    "xpu out of memory",
    "can not allocate memory block with size larger than 4gb",
    "mps backend out of memory",
    "invalid buffer size:",
    # the host
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "cannot allocate memory",
    "[winerror 1455]",
    # while loading: bitsandbytes' placement, and vLLM's plan of its cache
    "make sure you have enough gpu ram to fit",
    "no available memory for the cache blocks",
    "is less than desired gpu memory utilization",
    "that can be stored in kv cache",
    "than the available kv cache memory",
    # other libraries that a user's function may run
    "resource_exhausted: out of memory",
    "resource exhausted: out of memory",
    "resource_exhausted: failed to allocate",
    "oom when allocating tensor",
    "[metal] command buffer execution failed: insufficient memory",
    "[malloc_or_wait] unable to allocate",
    "out of memory error on gpu",
    "failed to allocate memory",
)
"""Parts of messages, in small letters; accelerate 1.15's test knows three of them.

An allocator that cannot ask NVML for the numbers of its own message (PyTorch 2.1 to 2.13) fails
with an assertion instead: see `_lost_its_message`.
"""
TYPES: Final = ("OutOfMemoryError", "TorchOutOfMemoryError", "ResourceExhaustedError")
"""Class names; torch's own inherits from RuntimeError and may carry any text."""
DEAD: Final = (
    "cuda error:",
    "hip error:",
    "cuda driver error:",
    "device-side assert",
    "cublas_status_execution_failed",
    "cublas_status_internal_error",
    "cudnn_status_execution_failed",
    "cudnn_status_mapping_error",
    "cudacachingallocator.cpp",
)
"""Parts of messages after which no later call of this process can be trusted; the last is an
assertion of the allocator, such as ``!handles_.at(i)``, which follows memory that ran out."""
DEAD_TYPES: Final = ("AcceleratorError", "EngineDeadError")
"""torch's error of a device, and vLLM's of an engine whose process is gone."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help, or, while loading, that the model does not fit."""
    return any(_is_memory(cause) for cause in _causes(error))


def is_dead_context(error: BaseException) -> bool:
    """Whether every later call of this process to its device would fail too."""
    return not is_out_of_memory(error) and any(_is_dead(cause) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised ``from``: a library's failure told in other words."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _has_name(error, TYPES):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(part in text for part in MESSAGES) or _lost_its_message(text)


def _lost_its_message(text: str) -> bool:
    """The allocator was about to say that memory ran out, and NVML did not answer."""
    return "nvml_success ==" in text and "cudacachingallocator.cpp" in text


def _is_dead(error: BaseException) -> bool:
    text = str(error).lower()
    return _has_name(error, DEAD_TYPES) or (
        isinstance(error, RuntimeError) and any(part in text for part in DEAD)
    )


def _has_name(error: BaseException, names: tuple[str, ...]) -> bool:
    return any(cls.__name__ in names for cls in type(error).__mro__)
