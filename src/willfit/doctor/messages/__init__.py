"""What every framework says when memory runs out: one file a framework, all of one shape."""

from __future__ import annotations

from typing import Final

from willfit.doctor.messages import (
    accelerate,
    bitsandbytes,
    cpu_allocator,
    cublas,
    cuda_error,
    cumem,
    deepspeed,
    hip,
    host_kill,
    jax,
    llama_cpp,
    llama_cpp_metal,
    llama_cpp_vulkan,
    lm_studio,
    mlx,
    mmap_paging,
    mps,
    nccl,
    notebook,
    npu,
    nvidia_smi,
    nvml_assert,
    ollama,
    paddle,
    pytorch,
    pytorch_async,
    pytorch_expandable,
    pytorch_old,
    ray,
    sdpa_kernel,
    sglang,
    shared_memory,
    tensorflow,
    tensorrt_llm,
    tgi,
    triton,
    vllm,
    xpu,
)
from willfit.doctor.messages.reader import Reader

__all__ = ["READERS", "Reader"]

READERS: Final[tuple[Reader, ...]] = (
    # engines and frameworks
    vllm.READER,
    sglang.READER,
    tgi.READER,
    tensorrt_llm.READER,
    deepspeed.READER,
    ollama.READER,
    lm_studio.READER,
    llama_cpp_vulkan.READER,
    llama_cpp_metal.READER,
    llama_cpp.READER,
    mlx.READER,
    jax.READER,
    tensorflow.READER,
    paddle.READER,
    bitsandbytes.READER,
    accelerate.READER,
    # torch
    cumem.READER,
    nvml_assert.READER,
    hip.READER,
    xpu.READER,
    npu.READER,
    mps.READER,
    pytorch_async.READER,
    pytorch_expandable.READER,
    pytorch.READER,
    pytorch_old.READER,
    triton.READER,
    nccl.READER,
    cublas.READER,
    sdpa_kernel.READER,
    # the host
    shared_memory.READER,
    mmap_paging.READER,
    cpu_allocator.READER,
    ray.READER,
    notebook.READER,
    # words that others say too
    cuda_error.READER,
    host_kill.READER,
    # what stands beside a failure
    nvidia_smi.READER,
)
"""In their precedence: of two that read the same words the earlier counts."""
