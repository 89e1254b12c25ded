"""Which exceptions are memory that ran out, which a process that is lost, and which neither."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from willfit.errors import UnsupportedError
from willfit.worker.oom import is_dead_context, is_out_of_memory

AT_C10 = (
    'INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1131, please report'
)
AND_MORE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nCompile with `TORCH_USE_CUDA_DSA` to enable …"
)

MEMORY = [
    # what accelerate 1.15's should_reduce_batch_size knows, and what it does not
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.56 GiB of …",
    f"CUDA error: out of memory{AND_MORE}",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a …",
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)",
    # PyTorch by version
    "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/THCStorage.cu:58",
    "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 10.92 GiB total capacity; 8.57 MiB …",
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacty of 23.65 GiB of …",
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU ",
    "CUDA out of memory. Tried to allocate more than 1EB memory.",
    "CUDA out of memory. Allocation was preemptively rejected because it would exceed …",
    f"NVML_SUCCESS == r {AT_C10}",
    f"NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() {AT_C10}",
    f"NVML_SUCCESS == DriverAPI::get()->nvmlDeviceGetHandleByPciBusId_v2_( … ) {AT_C10}",
    "CUDA driver error: out of memory",
    "CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "Triton Error [CUDA]: out of memory",
    # other back ends
    "HIP out of memory. Tried to allocate 15.49 GiB. GPU 0 has a total capacity of …",
    "HIP error: out of memory",
    "XPU out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total capacity of …",
    "Current platform can NOT allocate memory block with size larger than 4GB! Tried to allocate …",
    "MPS backend out of memory (MPS allocated: 17.01 GB, other allocations: 384.00 KB, …",
    "Invalid buffer size: 24.41 GiB",
    "data. DefaultCPUAllocator: not enough memory: you tried to allocate 4194304 bytes.",
    "unable to mmap 4294967296 bytes from file </m/model.safetensors>: Cannot allocate memory (12)",
    "std::bad_alloc: cudaErrorMemoryAllocation: out of memory",
    # what a user's function may run
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3208642560 bytes.",
    "OOM when allocating tensor with shape[64,4096] and type float on /job:localhost/…",
    "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPU…)",
    "Failed to allocate memory for requested buffer of size 1073741824",
    # while loading
    "Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit …",
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when …",
    "Free memory on device (0.49/79.32 GiB) on startup is less than desired GPU memory utilization",
]  # fmt: skip

DEAD = [
    f"CUDA error: device-side assert triggered{AND_MORE}",
    f"CUDA error: an illegal memory access was encountered{AND_MORE}",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( … )`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "HIP error: an illegal memory access was encountered",
    f"!handles_.at(i) {AT_C10}",
    f"p.block != nullptr && p.block->ptr != nullptr {AT_C10}",
]

NEITHER: list[Exception] = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x64 and 32x3)"),
    RuntimeError("The size of tensor a (514) must match the size of tensor b (512)"),
    IndexError("index out of range in self"),
    ValueError("row 7 cannot be computed"),
    KeyError("memory"),
    RuntimeError(
        "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that …"
    ),
    RuntimeError("out of resource: shared memory, Required: 163840, Hardware limit: 101376"),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    AssertionError("CUDA"),
]


@pytest.mark.parametrize("text", MEMORY)
def test_memory_that_ran_out_is_known_by_its_message(text: str) -> None:
    error = RuntimeError(text)
    assert is_out_of_memory(error)
    assert not is_dead_context(error)


@pytest.mark.parametrize("text", DEAD)
def test_a_context_that_is_dead_is_no_lack_of_memory(text: str) -> None:
    """A smaller batch would fail as well, and so would every batch after it."""
    error = RuntimeError(text)
    assert not is_out_of_memory(error)
    assert is_dead_context(error)


@pytest.mark.parametrize("error", NEITHER, ids=lambda error: str(error)[:30])
def test_other_errors_are_the_row_s(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_dead_context(error)


def test_memory_is_known_by_its_class_whatever_it_says() -> None:
    torch = pytest.importorskip("torch")
    tensorflow_s = type("ResourceExhaustedError", (Exception,), {})
    numpy_s = type("_ArrayMemoryError", (MemoryError,), {})
    for error in (
        torch.OutOfMemoryError("Allocation on device"),
        tensorflow_s(""),
        numpy_s("Unable to allocate 1.2 GiB"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ):
        assert is_out_of_memory(error)
    accelerator = type("AcceleratorError", (RuntimeError,), {})
    assert is_out_of_memory(accelerator("CUDA error: out of memory"))
    assert is_dead_context(accelerator("an error of the device"))


def test_what_a_loader_tells_in_its_own_words_is_known_by_its_cause() -> None:
    """`willfit.load` raises a sentence from the library's error; a chain may end in itself."""
    told = UnsupportedError("transformers refuses m with these settings: RuntimeError")
    told.__cause__ = RuntimeError("CUDA error: out of memory")
    assert is_out_of_memory(told)
    told.__cause__ = RuntimeError("CUDA error: device-side assert triggered")
    assert is_dead_context(told)
    told.__cause__ = told
    assert not is_out_of_memory(told)
    handled = UnsupportedError("another thing")
    handled.__context__ = RuntimeError("CUDA out of memory")  # while that was handled, not from it
    assert not is_out_of_memory(handled)


OF_A_WORKER = (
    "pytorch-cuda", "pytorch-hip", "pytorch-xpu", "pytorch-legacy", "nvml-assert", "mps", "cpu",
    "cuda-error", "cublas", "jax", "tensorflow", "mlx", "mmap-paging",
)  # fmt: skip
"""Families of the corpus that a process of Python raises itself."""
NOT_MEMORY = {
    "039_pt_allowed_shared_card.log": "the line that says it was not pasted",
    "275_pt_block_2pow64.log": "a size of 2^64: no batch is small enough",
}


def test_reports_of_people_are_known(shared: Path) -> None:
    corpus = shared / "oom_corpus"
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    wanted = [row for row in rows if row["family"] in OF_A_WORKER]
    missed = {
        row["file"]
        for row in wanted
        if not is_out_of_memory(RuntimeError((corpus / "raw" / row["file"]).read_text()))
    }
    assert len(wanted) > 80
    assert missed == set(NOT_MEMORY)
