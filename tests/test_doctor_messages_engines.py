"""What engines and frameworks say when memory runs out: every wording, its numbers to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.growth import grows_at_most

from willfit.doctor.amounts import read_amount
from willfit.doctor.find import reports_in
from willfit.doctor.messages import (
    READERS,
    accelerate,
    bitsandbytes,
    deepspeed,
    jax,
    llama_cpp,
    llama_cpp_metal,
    llama_cpp_vulkan,
    lm_studio,
    mlx,
    nvidia_smi,
    ollama,
    paddle,
    sglang,
    tensorflow,
    tensorrt_llm,
    tgi,
    vllm,
)
from willfit.doctor.messages.reader import Reader
from willfit.doctor.passage import Flat, Line
from willfit.doctor.report import Report
from willfit.units import GIB, MIB

ENGINES = tuple(
    module.READER
    for module in (
        vllm,
        sglang,
        tgi,
        tensorrt_llm,
        deepspeed,
        ollama,
        lm_studio,
        llama_cpp_vulkan,
        llama_cpp_metal,
        llama_cpp,
        mlx,
        jax,
        tensorflow,
        paddle,
        bitsandbytes,
        accelerate,
        nvidia_smi,
    )
)
FAMILIES = {
    "accelerate",
    "bitsandbytes",
    "jax",
    "llama.cpp",
    "llama.cpp-metal",
    "llama.cpp-vulkan",
    "lmstudio",
    "mlx",
    "nvidia-smi",
    "ollama",
    "paddle",
    "sglang",
    "tensorflow",
    "tensorrt-llm",
    "tgi",
    "vllm",
}
TEXT_WINS = {
    "139_lcpp_locale_comma.log": {"tried_bytes": 1900 * MIB},  # its comma is a decimal sign
    "259_smi_k8s_pids.log": {  # five processes stand in the text
        "processes": [
            {"pid": 3794364, "bytes": 5144 * MIB},
            {"pid": 3794783, "bytes": 2070 * MIB},
            {"pid": 3798331, "bytes": 1562 * MIB},
            {"pid": 3800664, "bytes": 866 * MIB},
            {"pid": 3800979, "bytes": 5154 * MIB},
        ]
    },
}


def flat(text: str) -> Flat:
    return Flat([Line(number=i, text=line) for i, line in enumerate(text.splitlines(), 1)])


def read(text: str) -> list[Report]:
    """Of all readers here whose needles the text has, in their precedence."""
    lines, whole = text.splitlines(), flat(text)
    called = [r for r in ENGINES if any(n in line for n in r.needles for line in lines)]
    return [told for reader in called for told in reader.read(whole)]


def first(text: str) -> Report:
    """The report that counts: of the heaviest, that of the reader in front."""
    order = {"numbers": 0, "words": 1, "aftermath": 2}
    return min(read(text), key=lambda told: order[told.weight])


def test_the_engines_are_in_the_registry_before_torch() -> None:
    names = [reader.name for reader in READERS]
    assert len(set(names)) == len(names)
    assert [name for name in names if name in {r.name for r in ENGINES}] == [
        r.name for r in ENGINES
    ]
    assert max(names.index(r.name) for r in ENGINES[:-1]) < names.index("pytorch-cuda")


def test_every_reader_is_tested_here_or_with_torch() -> None:
    """One that is not would never be asked whether its needles lead to it."""
    from tests.test_doctor_messages_torch import MINE

    assert {reader.name for reader in READERS} == MINE | {reader.name for reader in ENGINES}
    led_to = {reader.name for text, *_ in SAID for reader in ENGINES if _found(reader, text)}
    tables = {nvidia_smi.READER.name}  # tested with whole tables below
    assert led_to | tables == {reader.name for reader in ENGINES}


def _found(reader: Reader, text: str) -> bool:
    needed = any(needle in line for needle in reader.needles for line in text.splitlines())
    return needed and any(True for _ in reader.read(flat(text)))


# --- the corpus


def corpus(shared: Path) -> Iterator[tuple[dict[str, Any], str]]:
    folder = shared / "oom_corpus"
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["family"] in FAMILIES:
            yield entry, (folder / "raw" / entry["file"]).read_text()


def _wanted(entry: dict[str, Any]) -> dict[str, Any]:
    fields = {k: v for k, v in entry["fields"].items() if v is not None}
    if "tried_bytes_exact" in fields:
        fields["tried_bytes_exact"] = int(fields["tried_bytes_exact"])
    if "utilization" in fields:
        fields["utilization"] = float(fields["utilization"])
    return TEXT_WINS.get(entry["file"], fields)


def test_every_entry_of_the_corpus_is_read_to_the_byte(shared: Path) -> None:
    wrong = []
    for entry, text in corpus(shared):
        wanted, told = _wanted(entry), reports_in(text)
        families = {report.family for report in told}
        if families != {entry["family"]} or not wanted.items() <= told[0].fields.items():
            wrong.append((entry["file"], entry["family"], wanted, told))
    assert wrong == []


def test_no_entry_of_another_family_is_read_here(shared: Path) -> None:
    folder = shared / "oom_corpus"
    entries = [json.loads(x) for x in (folder / "manifest.jsonl").read_text().splitlines()]
    others = [e for e in entries if e["family"] not in FAMILIES]
    read_here = {
        (entry["file"], told.family)
        for entry in others
        for told in read((folder / "raw" / entry["file"]).read_text())
        if told.weight != "aftermath"
    }
    assert len(others) > 80
    assert read_here == set()


# --- wordings, from the programs' own format strings

VLLM_V0_START = """\
INFO 02-26 09:54:02 model_runner.py:1115] Loading model weights took 5.25 GB
INFO 02-26 09:54:05 worker.py:267] Memory profiling takes 3.25 seconds
INFO 02-26 09:54:05 worker.py:267] the current vLLM instance can use total_gpu_memory (8.00GiB) x gpu_memory_utilization (0.70) = 5.60GiB
INFO 02-26 09:54:05 worker.py:267] model weights take 5.50GiB; non_torch_memory takes 0.25GiB; PyTorch activation peak memory takes 1.50GiB; the rest of the memory reserved for KV Cache is -1.50GiB.
INFO 02-26 09:54:05 executor_base.py:111] # cuda blocks: 0, # CPU blocks: 4681
"""
VLLM_V0_FACTS = {
    "weights_bytes": 5 * GIB + GIB // 2,
    "total_bytes": 8 * GIB,
    "utilization": 0.70,
    "budget_bytes": 56 * GIB // 10,
    "non_torch_bytes": GIB // 4,
    "activation_bytes": 3 * GIB // 2,
    "kv_available_bytes": -3 * GIB // 2,
    "gpu_blocks": 0,
}
SAID: tuple[tuple[str, str, dict[str, Any]], ...] = (
    # vLLM
    (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine (this flag also controls CPU memory reservation on the CPU backend, despite its name).",
        "vllm",
        {},
    ),
    (
        VLLM_V0_START
        + "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
        "vllm",
        VLLM_V0_FACTS,
    ),
    (
        "Available KV cache memory: -0.5 GiB\nValueError: No available memory for the cache blocks. Try increasing",
        "vllm",
        {"kv_available_bytes": -GIB // 2},
    ),
    (
        "GPU KV cache size: 34,736 tokens\nRuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
        "vllm",
        {"kv_tokens": 34736, "dummy_requests": 1024},
    ),
    (
        "RuntimeError: CUDA out of memory occurred when warming up pooler (task='embed') with 256 dummy requests. Please try lowering",
        "vllm",
        {"dummy_requests": 256},
    ),
    (
        "ValueError: The model's max seq len (40960) is larger than the maximum number of tokens that can be stored in KV cache (2048). Try increasing",
        "vllm",
        {"max_model_len": 40960, "kv_tokens": 128 * 16},
    ),
    (  # 0.8
        "ValueError: To serve at least one request with the models's max seq len (32768), (18.00 GB KV cache is needed, which is larger than the available KV cache memory (3.50 GB). Try increasing `gpu_memory_utilization`",
        "vllm",
        {"max_model_len": 32768, "kv_needed_bytes": 18 * GIB, "kv_available_bytes": 7 * GIB // 2},
    ),
    (  # 0.32, wrapped by a terminal in the middle of a number
        "ValueError: To serve at least one request with the model's max seq len (131072), (12.5 GiB KV cache is needed, which is larger than the available KV cache memory (7.2\n5 GiB). Based on the available memory, the estimated maximum model length is 76016. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend)",
        "vllm",
        {
            "max_model_len": 131072,
            "kv_needed_bytes": 25 * GIB // 2,
            "kv_available_bytes": 29 * GIB // 4,
            "estimated_max_len": 76016,
        },
    ),
    (  # as people retype it, without the parenthesis
        "ValueError: To serve at least one request with the model's max seq len (917504), 23.5 GiB KV cache is needed, which is larger than the available KV cache memory (22.75 GiB). Estimated maximum model length is 886912.",
        "vllm",
        {
            "max_model_len": 917504,
            "kv_needed_bytes": 47 * GIB // 2,
            "kv_available_bytes": 91 * GIB // 4,
            "estimated_max_len": 886912,
        },
    ),
    (
        "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. Try increasing `gpu_memory_utilization`.",
        "vllm",
        {},
    ),
    (
        "ValueError: Free memory on device cuda:3 (2.5/121.5 GiB) on startup is less than desired GPU memory utilization (0.08, 9.75 GiB). Decrease GPU memory utilization",
        "vllm",
        {
            "gpu": 3,
            "free_bytes": 5 * GIB // 2,
            "total_bytes": 243 * GIB // 2,
            "utilization": 0.08,
            "requested_bytes": 39 * GIB // 4,
        },
    ),
    (
        "ValueError: Free memory on device xpu:0 (18.75/28.5 GiB) on startup\nis less than desired GPU memory utilization (0.7, 20.0 GiB).",
        "vllm",
        {
            "gpu": 0,
            "free_bytes": 75 * GIB // 4,
            "total_bytes": 57 * GIB // 2,
            "utilization": 0.7,
            "requested_bytes": 20 * GIB,
        },
    ),
    (
        "ValueError: Free memory on device cuda:0 (30.0/80.0 GiB) on startup is less than the engine's budget after excluding external process's weights (0.9, 40.0 GiB). Decrease",
        "vllm",
        {
            "gpu": 0,
            "free_bytes": 30 * GIB,
            "total_bytes": 80 * GIB,
            "utilization": 0.9,
            "requested_bytes": 40 * GIB,
        },
    ),
    (
        "ValueError: Available memory on node 0 (20.0/64.0 GiB) on startup is less than desired CPU memory utilization (0.92, 58.75 GiB). On the CPU backend,",
        "vllm",
        {
            "host_free_bytes": 20 * GIB,
            "host_total_bytes": 64 * GIB,
            "utilization": 0.92,
            "host_required_bytes": 235 * GIB // 4,
        },
    ),
    (
        "AssertionError: Error in memory profiling. Initial free memory 20.5 GiB, current free memory 22.75 GiB. This happens when other processes sharing the same container release GPU memory",
        "vllm",
        {"initial_free_bytes": 41 * GIB // 2, "current_free_bytes": 91 * GIB // 4},
    ),
    (
        "AssertionError: Error in memory profiling. Initial free memory 14530576384, current free memory 15627583488. This happens when the GPU memory was not properly cleaned up",
        "vllm",
        {"initial_free_bytes": 14530576384, "current_free_bytes": 15627583488},
    ),
    (
        "ValueError: Too large swap space. 32.00 GiB out of the 31.25 GiB total CPU memory is allocated for the swap space.",
        "vllm",
        {"host_required_bytes": 32 * GIB, "host_total_bytes": 125 * GIB // 4},
    ),
    (
        "ERROR [gpu_model_runner.py:2735] Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for weights, increasing --tensor-parallel-size, or using --quantization.",
        "vllm",
        {},
    ),
    (
        "WARNING 04-01 12:00:00 scheduler.py:648] Input prompt (9000 tokens) + lookahead slots (0) is too long and exceeds the capacity of block_manager",
        "vllm",
        {"prompt_tokens": 9000},
    ),
    (
        "AssertionError: Error in memory profiling. This happens when the GPU memory was not properly cleaned up before initializing the vLLM instance.",
        "vllm",
        {},
    ),
    # SGLang
    (
        "RuntimeError: Not enought memory. Please try to increase --mem-fraction-static.",
        "sglang",
        {},
    ),
    (
        "Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=3.25 GB, mem usage=44.50 GB.\nRuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.88",
        "sglang",
        {
            "mem_fraction_static": 0.88,
            "available_bytes": 13 * GIB // 4,
            "weights_bytes": 89 * GIB // 2,
        },
    ),
    (
        "Load weight end. quant=fp8, fmt=e4m3, avail mem=12.25 GB, mem usage=125.75 GB.\nValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.88. Raise --mem-fraction-static above 0.912 (minimum viable = 1 - available/pre = 0.9113). If using speculative decoding,",
        "sglang",
        {
            "mem_fraction_static": 0.88,
            "min_mem_fraction_static": 0.912,
            "available_bytes": 49 * GIB // 4,
            "weights_bytes": 503 * GIB // 4,
        },
    ),
    (
        "Prefill out of memory. Try to lower your batch size.\nTry to allocate 8192 tokens.\nAvaliable tokens: 5120\n",
        "sglang",
        {"tried_tokens": 8192, "available_tokens": 5120},
    ),
    (
        "RuntimeError: Decode out of memory. Try to lower your batch size.\nTry to allocate 33 tokens.\nAvailable tokens: 12 (available_size=12 + evictable_size=0)\n",
        "sglang",
        {"tried_tokens": 33, "available_tokens": 12},
    ),
    (
        "RuntimeError: Out of memory. Please set a smaller number for `--max-running-requests`.",
        "sglang",
        {},
    ),
    (
        "RuntimeError: alloc_req_slots runs out of memory. Please set a smaller number for `--max-running-requests`. req_to_token_pool.available_size()=0, num_reqs=1, ",
        "sglang",
        {},
    ),
    (
        "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes. pre_model_load_memory=62.5, local_gpu_memory=78.75, local_gpu_memory * 0.9=70.875",
        "sglang",
        {"free_bytes": 125 * GIB // 2, "local_free_bytes": 315 * GIB // 4},
    ),
    (
        "RuntimeError: Buffer overflow when allocating memory for batch_prefill_tmp_v with size 2415919104 and alignment 16, but only 2147483648 bytes available in AlignedAllocator. Increase the workspace buffer size.",
        "sglang",
        {"tried_bytes": 2415919104, "available_bytes": 2 * GIB},
    ),
    (
        "(EngineCore pid=9) RuntimeError: Buffer overflow when allocating memory for batch_prefill_tmp_v with size 283115520 and alignment 16, but only 268435456 bytes available in AlignedAllocator.",
        "vllm",
        {"tried_bytes": 270 * MIB, "available_bytes": 256 * MIB},
    ),
    (
        "ValueError: Not enough host memory available. Requesting 98.25 GB but only have 50.50 GB free. Please reduce the size of the hierarchical cache.",
        "sglang",
        {"host_required_bytes": 98_250_000_000, "host_available_bytes": 50_500_000_000},
    ),
    # Text Generation Inference
    (
        'Error: Warmup(Generation("Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`"))',
        "tgi",
        {"prefill_tokens": 4096},
    ),
    (
        "RuntimeError: Not enough memory to handle 16000 total tokens with 4096 prefill tokens. You need to decrease `--max-batch-total-tokens` or `--max-batch-prefill-tokens`",
        "tgi",
        {"total_tokens": 16000, "prefill_tokens": 4096},
    ),
    (
        "Error: Backend(NotEnoughMemory(8192)) Not enough memory to handle `max_total_tokens=8192`",
        "tgi",
        {"max_total_tokens": 8192},
    ),
    (
        "AssertionError: Out of available cache blocks: asked 107, only 4 free blocks",
        "tgi",
        {"asked_blocks": 107, "free_blocks": 4},
    ),
    # TensorRT-LLM
    (
        "[TensorRT-LLM][ERROR] Assertion failed: Can't allocate new blocks. No free blocks left. (/src/tensorrt_llm/cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp:448)",
        "tensorrt-llm",
        {},
    ),
    (
        "[TRT-LLM] [RANK 1] [E] Failed to initialize executor on rank 1: Executor creation failed due to insufficient GPU memory.\n\nThe following component could not be created: Additional executor resources (temporary for KV cache size estimation)\nTotal GPU memory (GiB): 95.00\nFree GPU memory before component creation attempt (GiB): 16.75\n\nPreviously created components and free GPU memory before/after creation (GiB):\nModel: 94.30 / 47.83",
        "tensorrt-llm",
        {
            "component": "Additional executor resources (temporary for KV cache size estimation)",
            "total_bytes": 95 * GIB,
            "free_bytes": 67 * GIB // 4,
        },
    ),
    (
        "[TRT] [W] Requested amount of GPU memory (24793579520 bytes) could not be allocated. There may not be enough free memory for allocation to succeed.\n[TRT] [E] 2: [globWriter.cpp::makeResizableGpuMemory::423] Error Code 2: OutOfMemory (no further information)",
        "tensorrt-llm",
        {"tried_bytes": 24793579520},
    ),
    (
        "[TensorRT-LLM][ERROR] CUDA runtime error in cudaMalloc(&mPtr, size): out of memory (/src/tensorrt_llm/cpp/tensorrt_llm/runtime/tllmBuffers.h:89)",
        "tensorrt-llm",
        {},
    ),
    # DeepSpeed
    (
        "Requested:\t5368709120\nFree:\t1073741824\nTotal:\t17179869184\nRuntimeError: Workspace can't be allocated, no enough memory.",
        "deepspeed",
        {"tried_bytes": 5 * GIB, "free_bytes": GIB, "total_bytes": 16 * GIB},
    ),
    ("RuntimeError: Workspace can't be allocated, not enough memory.", "deepspeed", {}),
    (
        "ValueError: Insufficient memory to allocate KV-caches. Required: 8388608, Available: 1048576",
        "deepspeed",
        {"kv_needed_bytes": 8 * MIB, "kv_available_bytes": MIB},
    ),
    # llama.cpp
    (
        "load_tensors: loading model tensors, this can take a while... (mmap = true, direct_io = false)\nggml_backend_cuda_buffer_type_alloc_buffer: allocating 144817.00 MiB on device 0: cudaMalloc failed: out of memory\nalloc_tensor_range: failed to allocate CUDA0 buffer of size 151851630592\nllama_model_load: error loading model: unable to allocate CUDA0 buffer\nllama_model_load_from_file_impl: failed to load model",
        "llama.cpp",
        {
            "tried_bytes": 144817 * MIB,
            "gpu": 0,
            "buffer": "CUDA0",
            "tried_bytes_exact": 144817 * MIB,
        },
    ),
    (
        "llama_kv_cache: size = 1024.00 MiB ( 8192 cells, 32 layers)\n0.06.650.500 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1556.50 MiB on device 0: cudaMalloc failed: out of memory\n0.06.650.537 E alloc_tensor_range: failed to allocate CUDA0 buffer of size 1632108544\n0.06.650.549 E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
        "llama.cpp",
        {
            "kv_bytes": GIB,
            "tried_bytes": 3113 * MIB // 2,
            "gpu": 0,
            "buffer": "CUDA0",
            "tried_bytes_exact": 1632108544,
        },
    ),
    (
        "common_fit: projected to use 12000 MiB of device memory vs. 8000 MiB of free device memory\nllama_context: n_ctx         = 131072\nggml_backend_cuda_buffer_type_alloc_buffer: allocating 512.25 MiB on device 1: cudaMalloc failed: out of memory",
        "llama.cpp",
        {
            "projected_bytes": 12000 * MIB,
            "free_bytes": 8000 * MIB,
            "context_len": 131072,
            "tried_bytes": 2049 * MIB // 4,
            "gpu": 1,
        },
    ),
    (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 437944320\nalloc_tensor_range: failed to allocate CPU buffer of size 437944320\nllama_model_load: error loading model: unable to allocate CPU buffer",
        "llama.cpp",
        {"tried_bytes_exact": 437944320},
    ),
    (
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 6144.50 MB)",
        "llama.cpp",
        {"tried_bytes": 12289 * MIB // 2},
    ),
    (
        "ggml_new_object: not enough space in the context's memory pool (needed 16777456, available 16777216)",
        "llama.cpp",
        {"tried_bytes_exact": 16777456, "available_bytes_exact": 16 * MIB},
    ),
    (
        "CUDA error 2 at /home/user/src/llama/ggml-cuda.cu:7233: out of memory\ncurrent device: 0",
        "llama.cpp",
        {},
    ),
    (
        "ROCm error: out of memory\n  current device: 1, in function ggml_cuda_pool_malloc at /home/user/llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu:370\n  hipMalloc(&ptr, size)",
        "llama.cpp",
        {"gpu": 1, "function": "ggml_cuda_pool_malloc"},
    ),
    ("llama_model_load: error loading model: unable to allocate backend buffer", "llama.cpp", {}),
    # llama.cpp on Vulkan and Metal
    (
        "ggml_vulkan: Device memory allocation of size 4294967296 failed.\nggml_vulkan: Requested buffer size exceeds device memory allocation limit: ErrorOutOfDeviceMemory\nalloc_tensor_range: failed to allocate Vulkan0 buffer of size 4294967296\nllama_model_load: error loading model: unable to allocate Vulkan0 buffer",
        "llama.cpp-vulkan",
        {"tried_bytes": 4 * GIB},
    ),
    (
        "ggml_vulkan: Memory allocation of size 1073741824 failed.",
        "llama.cpp-vulkan",
        {"tried_bytes": GIB},
    ),
    (
        "ggml_gallocr_reserve_n_impl: failed to allocate Vulkan0 buffer of size 2147483648",
        "llama.cpp-vulkan",
        {"buffer": "Vulkan0", "tried_bytes_exact": 2 * GIB},
    ),
    (
        "llama_new_context_with_model: n_ctx      = 8192\nterminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'\n  what():  vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "llama.cpp-vulkan",
        {"context_len": 8192},
    ),
    (
        "ggml_metal_synchronize: error: command buffer 1 failed with status 5\nerror: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "llama.cpp-metal",
        {},
    ),
    (
        "ggml_metal_buffer_init: error: failed to allocate buffer, size =  9216.50 MiB",
        "llama.cpp-metal",
        {"tried_bytes": 18433 * MIB // 2},
    ),
    (
        "ggml_metal_add_buffer: error: failed to allocate 'data            ' buffer, size = 13312.00 MB",
        "llama.cpp-metal",
        {"tried_bytes": 13 * GIB},
    ),
    (
        "ggml_metal_log_allocated_size: allocated buffer, size =  4096.00 MiB, (12288.00 / 10922.50)\nggml_metal_log_allocated_size: warning: current allocated size is greater than the recommended max working set size",
        "llama.cpp-metal",
        {
            "tried_bytes": 4 * GIB,
            "used_bytes": 12 * GIB,
            "working_set_bytes": 21845 * MIB // 2,
        },
    ),
    # ollama
    (
        'time=2024-07-02T10:11:12.000Z level=WARN source=server.go:136 msg="model request too large for system" requested="18.5 GiB" available=8589934592 total="15.6 GiB" free="7.5 GiB" swap="512.0 MiB"',
        "ollama",
        {"host_required_bytes": 37 * GIB // 2, "host_available_bytes": 8 * GIB},
    ),
    (
        'level=WARN source=server.go:992 msg="model request too large for system" requested="18.5 GiB" available="8.0 GiB" total="15.6 GiB" free="7.5 GiB" swap="512.0 MiB"',
        "ollama",
        {"host_required_bytes": 37 * GIB // 2, "host_available_bytes": 8 * GIB},
    ),
    (
        '{"error":"model requires 22.5 GiB but only 15.0 GiB are available (after 1.0 GiB overhead)"}',
        "ollama",
        {"required_full_bytes": 45 * GIB // 2, "gpu_available_bytes": 15 * GIB},
    ),
    (
        "Error: insufficient memory for image generation: need 21 GB, have 16 GB",
        "ollama",
        {"required_full_bytes": 21 * GIB, "gpu_available_bytes": 16 * GIB},
    ),
    (
        "Error: llama runner process has terminated: signal: killed",
        "ollama",
        {},
    ),
    (
        "Error: 500 Internal Server Error: llama runner process has terminated: exit status 0xc0000409",
        "ollama",
        {},
    ),
    (
        "Error: llama runner process has terminated: error loading model: unable to allocate CUDA0 buffer",
        "ollama",
        {},
    ),
    (
        "Error: llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory",
        "ollama",
        {},
    ),
    (
        "Error: model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama server logs for details",
        "ollama",
        {},
    ),
    (
        'level=INFO source=device.go:272 msg="kv cache" device=CUDA0 size="6.0 GiB"\nlevel=INFO source=device.go:272 msg="total memory" size="22.5 GiB"\nggml_backend_cuda_buffer_type_alloc_buffer: allocating 6144.00 MiB on device 0: cudaMalloc failed: out of memory\nError: llama runner process has terminated: cudaMalloc failed: out of memory',
        "ollama",
        {"tried_bytes": 6 * GIB, "gpu": 0},
    ),
    (
        "ollama  | CUDA error: out of memory\nollama  |   current device: 0, in function alloc at //ml/backend/ggml/ggml/src/ggml-cuda/ggml-cuda.cu:446\nollama  |   cuMemCreate(&handle, reserve_size, &prop, 0)",
        "ollama",
        {"gpu": 0, "function": "alloc"},
    ),
    # LM Studio
    (
        "Model loading was stopped due to insufficient system resources. Under the current settings, this model requires approximately 273.25 GB of memory, and continuing to load it would likely overload your system",
        "lmstudio",
        {"required_bytes": 1093 * GIB // 4},
    ),
    (
        '{\n  "title": "Failed to load model",\n  "cause": "llama.cpp error: \'error loading model: unable to allocate CUDA0 buffer\'",\n  "data": {\n    "memory": {\n      "ram_capacity": "15.75 GB",\n      "ram_unused": "7.50 GB"\n    },\n    "gpu": {\n      "vram_recommended_capacity": "2.00 GB",\n      "vram_unused": "1.50 GB"\n    }\n  }\n}',
        "lmstudio",
        {
            "host_total_bytes": 63 * GIB // 4,
            "host_free_bytes": 15 * GIB // 2,
            "total_bytes": 2 * GIB,
            "free_bytes": 3 * GIB // 2,
        },
    ),
    # MLX
    (
        "RuntimeError: [metal::malloc] Attempting to allocate 137438953472 bytes which is greater than the maximum allowed buffer size of 9663676416 bytes.",
        "mlx",
        {"tried_bytes": 128 * GIB, "max_buffer_bytes": 9 * GIB},
    ),
    (
        "RuntimeError: [malloc] Unable to allocate 8589934592 bytes.",
        "mlx",
        {"tried_bytes": 8 * GIB},
    ),
    (
        "RuntimeError: [metal::malloc] Resource limit (499000) exceeded.",
        "mlx",
        {"resource_limit": 499000},
    ),
    ("RuntimeError: cudaMallocAsync(&data, size, stream) failed: out of memory", "mlx", {}),
    (
        "[WARNING] Generating with a model that requires 21504 MB which is close to the maximum recommended size of 22528 MB. This can be slow.",
        "mlx",
        {"weights_bytes": 21 * GIB, "working_set_bytes": 22 * GIB},
    ),
    (
        "RuntimeError: Attempting to allocate 41419800576 bytes which is greater than the maximum allowed buffer size of 28991029248 bytes.",
        "mlx",
        {"tried_bytes": 41419800576, "max_buffer_bytes": 27 * GIB},
    ),
    # JAX
    (
        "RuntimeError: Resource exhausted: Failed to allocate request for 32.00MiB (33554432B) on device ordinal 0",
        "jax",
        {"tried_bytes": 32 * MIB, "tried_bytes_exact": 33554432, "gpu": 0},
    ),
    (
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.\nBufferAssignment OOM Debugging.\nBufferAssignment stats:\n             parameter allocation:  372.75MiB\n              constant allocation:    48.5KiB\n        maybe_live_out allocation:    9.50GiB\n     preallocated temp allocation:    4.25GiB\n                 total allocation:   14.50GiB\n",
        "jax",
        {
            "tried_bytes": 4770354232,
            "program_parameter_bytes": 1491 * MIB // 4,
            "program_output_bytes": 19 * GIB // 2,
            "program_temp_bytes": 17 * GIB // 4,
            "program_bytes": 29 * GIB // 2,
        },
    ),
    (
        "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2.50GiB.",
        "jax",
        {"tried_bytes": 5 * GIB // 2},
    ),
    (
        "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 33.50G of 31.25G hbm. Exceeded hbm capacity by 2.25G.\n\nTotal hbm usage >= 33.75G:",
        "jax",
        {
            "tried_bytes": 67 * GIB // 2,
            "total_bytes": 125 * GIB // 4,
            "exceeded_bytes": 9 * GIB // 4,
        },
    ),
    (
        "RuntimeError: Resource exhausted: From /job:tpu_worker/replica:0/task:0:\nAttempting to reserve 3.75G at the bottom of memory. That was not possible. There are 1.50G free, 0B reserved, and 1.50G reservable.",
        "jax",
        {"tried_bytes": 15 * GIB // 4, "free_bytes": 3 * GIB // 2},
    ),
    (
        "gpu_async_1 cuMemAllocAsync failed to allocate 1225195446464 bytes: RESOURCE_EXHAUSTED: : CUDA_ERROR_OUT_OF_MEMORY: out of memory\n Reported by CUDA: Free memory/Total memory: 22635544576/85095874560",
        "jax",
        {"tried_bytes": 1225195446464, "free_bytes": 22635544576, "total_bytes": 85095874560},
    ),
    (
        "XlaRuntimeError: INTERNAL: Failed to allocate 16777216 bytes for new constant",
        "jax",
        {"tried_bytes": 16 * MIB},
    ),
    # TensorFlow
    (
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError:  OOM when allocating tensor with shape[32,1024,64,64] and type half on /job:localhost/replica:0/task:0/device:GPU:1 by allocator GPU_1_bfc",
        "tensorflow",
        {"shape": [32, 1024, 64, 64], "dtype": "half", "gpu": 1},
    ),
    (
        "OOM when allocating tensor with shape[24850,3836]",
        "tensorflow",
        {"shape": [24850, 3836]},
    ),
    (
        "W tensorflow/core/common_runtime/bfc_allocator.cc:462] Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.50GiB (rounded to 2684354560)requested by op Relu",
        "tensorflow",
        {"tried_bytes": 5 * GIB // 2},
    ),
    ("ResourceExhaustedError: failed to allocate memory [Op:AddV2]", "tensorflow", {}),
    (
        "tensorflow.python.framework.errors_impl.InternalError: Dst tensor is not initialized.",
        "tensorflow",
        {},
    ),
    (
        'I tensorflow/stream_executor/cuda/cuda_driver.cc:733] failed to allocate 3.50G (3758096384 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory\n  File ".../tensorflow/python/client/session.py", line 1365, in _do_call',
        "tensorflow",
        {"tried_bytes": 7 * GIB // 2, "tried_bytes_exact": 3758096384},
    ),
    # PaddlePaddle
    (
        "ResourceExhaustedError: \n\nOut of memory error on GPU 2. Cannot allocate 80.500000MB memory on GPU 2, available memory is only 47.625000MB.",
        "paddle",
        {"gpu": 2, "tried_text_bytes": 161 * MIB // 2, "available_text_bytes": 381 * MIB // 8},
    ),
    (
        "ResourceExhaustedError: Fail to alloc memory of 1073741824 size, error code is 12.",
        "paddle",
        {"tried_text_bytes": GIB},
    ),
    # bitsandbytes, accelerate, the Trainer
    (
        "Error out of memory at line 559 in file /src/csrc/pythonInterface.cpp",
        "bitsandbytes",
        {},
    ),
    (
        "Unused kwargs: ['load_4bit_use_double_quant', 'bnb_4bit_compute_type']. These kwargs are not used in <class 'transformers.utils.quantization_config.BitsAndBytesConfig'>.",
        "bitsandbytes",
        {"unused_kwargs": ["load_4bit_use_double_quant", "bnb_4bit_compute_type"]},
    ),
    (
        "Some modules are offloaded to the CPU or the disk. Note that these modules will be converted to 8-bit",
        "bitsandbytes",
        {},
    ),
    (
        "Some parameters are on the meta device because they were offloaded to the cpu and disk.",
        "accelerate",
        {},
    ),
    (
        "UserWarning: Current model requires 536870912 bytes of buffer for offloaded layers, which seems does not fit any GPU's remaining memory.",
        "accelerate",
        {"offload_buffer_bytes": 512 * MIB},
    ),
    (
        "RuntimeError: Evaluation hit an out-of-memory error. `auto_find_batch_size` only adjusts the training batch size, reduce `per_device_eval_batch_size` instead.",
        "accelerate",
        {},
    ),
    ("RuntimeError: No executable batch size found, reached zero.", "accelerate", {}),
    (
        "ValueError: The current `device_map` had weights offloaded to the disk. Please provide an `offload_folder` for them.",
        "accelerate",
        {},
    ),
)


@pytest.mark.parametrize(("text", "family", "fields"), SAID, ids=lambda x: str(x)[:40])
def test_a_wording_gives_its_numbers_and_no_other(
    text: str, family: str, fields: dict[str, Any]
) -> None:
    told = first(text)
    assert (told.family, dict(told.fields)) == (family, fields)
    amounts = {name for name, value in fields.items() if name.endswith("_bytes") and value >= 0}
    assert set(told.printed) <= amounts
    assert all(read_amount(told.printed[name]).num_bytes == fields[name] for name in told.printed)


# --- what the wording says beside its numbers

MARKED: tuple[tuple[str, set[str]], ...] = (
    (
        "llama_context: compute buffer allocation failed, retrying without pipeline parallelism",
        {"not_fatal", "for_compute"},
    ),
    (  # the refusal that was tried again with less
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 2048.00 MiB on device 0: cudaMalloc failed: out of memory\nggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 2147483648\nllama_context: compute buffer allocation failed, retrying without pipeline parallelism",
        {"not_fatal", "for_compute"},
    ),
    (
        "ggml_cuda_host_malloc: failed to allocate 512.00 MiB of pinned memory: out of memory",
        {"not_fatal", "pinned_memory"},
    ),
    (
        "KV cache pool is full. Retract requests. #retracted_reqs: 1, #new_token_ratio: 0.4",
        {"not_fatal"},
    ),
    (
        "WARNING 05-09 00:49:33 scheduler.py:1057] Sequence group 0 is preempted by PreemptionMode.RECOMPUTE mode because there is not enough KV cache space.",
        {"not_fatal"},
    ),
    (
        "W tensorflow/core/common_runtime/bfc_allocator.cc:243] Allocator (GPU_0_bfc) ran out of memory trying to allocate 1.25GiB with freed_by_count=0. The caller indicates that this is not a failure, but may mean",
        {"not_fatal"},
    ),
    (
        "Some parameters are on the meta device because they were offloaded to the cpu.",
        {"not_fatal", "offloaded_to_host"},
    ),
    (
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 5368709120\nllama_model_load: error loading model: unable to allocate CUDA0 buffer",
        {"for_weights"},
    ),
    (
        "alloc_tensor_range: failed to allocate ROCm1 buffer of size 5368709120\nllama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
        {"for_kv_cache"},
    ),
    (
        "ggml_vulkan: Device memory allocation of size 4294967296 failed.\nggml_vulkan: Requested buffer size exceeds device memory allocation limit: ErrorOutOfDeviceMemory",
        {"buffer_limit"},
    ),
    (
        "CUDA error: out of memory\n  current device: 0, in function ggml_cuda_pool_malloc at ggml-cuda.cu:256",
        {"ggml_ambiguous"},
    ),
    (
        "CUDA error: out of memory\n  current device: 0, in function alloc at /src/llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu:256",
        set(),
    ),
    (
        "ValueError: Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit the quantized model. If you want to dispatch the model on the CPU or the disk while keeping these modules in 32-bit, you need to set `load_in_8bit_fp32_cpu_offload=True` and pass",
        {"dispatched", "wrong_key"},
    ),
    (
        "Model loading was stopped due to insufficient system resources. Under the current settings, this model requires approximately NaN undefined of memory",
        {"guardrail", "estimate_nan"},
    ),
)


@pytest.mark.parametrize(("text", "marks"), MARKED, ids=[text[:40] for text, _ in MARKED])
def test_marks_say_what_a_message_is(text: str, marks: set[str]) -> None:
    assert first(text).marks == marks


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        "ERROR 06-30 13:53:19 [core.py:515] EngineCore failed to start.",
        'Error: Warmup(Generation("CUDA out of memory. Tried to allocate 2.00 GiB."))',
        "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 20.00 MiB.",
    ],
)
def test_a_wrapper_yields_to_what_it_wraps(text: str) -> None:
    assert [told.weight for told in read(text)] == ["aftermath"]


def test_releases_are_told_by_the_key_in_the_advice() -> None:
    said = "ValueError: Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit the quantized model. you need to set `{}=True`"
    assert first(said.format("load_in_8bit_fp32_cpu_offload")).release == "transformers ≤ 4.44"
    assert first(said.format("llm_int8_enable_fp32_cpu_offload")).release == "transformers ≥ 4.45"


def test_the_nearest_line_before_gives_the_number() -> None:
    """Two engines one after the other in one log: each has its own blocks."""
    refusal = "ValueError: The model's max seq len (4096) is larger than the maximum number of tokens that can be stored in KV cache ({}). Try"
    text = "\n".join(
        line
        for blocks in (100, 229)
        for line in (f"# GPU blocks: {blocks}, # CPU blocks: 512", refusal.format(blocks * 16))
    )
    assert [(r.fields["gpu_blocks"], r.fields["kv_tokens"]) for r in read(text)] == [
        (100, 1600),
        (229, 3664),
    ]


def test_a_bare_message_takes_the_numbers_of_vllms_lines() -> None:
    told = first(VLLM_V0_START + "torch.OutOfMemoryError: CUDA out of memory.")
    assert (told.family, dict(told.fields)) == ("vllm", VLLM_V0_FACTS)
    # with numbers of its own it is torch's
    assert (
        read(
            VLLM_V0_START
            + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."
        )
        == []
    )


def test_ollamas_words_make_ggmls_lines_ollamas() -> None:
    lines = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 64.00 MiB on device 0: cudaMalloc failed: out of memory"
    assert first(lines).family == "llama.cpp"
    assert first("llm_load_print_meta: model size = 3.5 GiB\n" + lines).family == "llama.cpp"
    assert first("[GIN] 2025/04/29 - 12:31:28 | 500 |\n" + lines).family == "ollama"
    assert first("model: /root/.ollama/models/blobs/sha256-ac9b\n" + lines).family == "ollama"


OFFLOAD = (
    'level=INFO source=server.go:135 msg="system memory" total="64.0 GiB" free="{free} GiB" free_swap="0 B"\n'
    'level=INFO source=server.go:168 msg=offload library=cuda layers.requested=-1 layers.model=49 layers.offload={layers} layers.split="" memory.available="[{gpus}]" memory.gpu_overhead="0 B" memory.required.full="{full} GiB" memory.required.partial="10.0 GiB" memory.required.kv="2.0 GiB"'
)


def test_an_estimate_is_a_report_where_the_host_is_crowded() -> None:
    crowded = OFFLOAD.format(free=60, layers=4, gpus="12.0 GiB", full=68)  # 68 − 10 = 58 of 60
    roomy = OFFLOAD.format(free=60, layers=30, gpus="12.0 GiB", full=20)  # 20 − 10 = 10 of 60
    two_gpus = OFFLOAD.format(free=10, layers=49, gpus="12.0 GiB 12.0 GiB", full=20)
    assert first(crowded).fields["host_free_bytes"] == 60 * GIB
    assert first(crowded).marks == {"partial_offload", "no_error_line"}
    assert read(roomy) == read(two_gpus) == []


# --- tables of nvidia-smi

SMI = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|=========================================+========================+======================|
|   0  Tesla T4                       Off |   00000000:00:04.0 Off |                    0 |
| N/A   47C    P8              9W /   70W |   {used0:>6}MiB /  15360MiB |    {busy0:>3}%      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+
|   1  Tesla T4                       Off |   00000000:00:05.0 Off |                    0 |
| N/A   44C    P8              9W /   70W |   {used1:>6}MiB /  15360MiB |      0%      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+

+-----------------------------------------------------------------------------------------+
| Processes:                                                                              |
|  GPU   GI   CI        PID   Type   Process name                              GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
{rows}
+-----------------------------------------------------------------------------------------+
"""
NOBODY = (
    "|  No running processes found                                                             |"
)
ROW = "|    {gpu}   N/A  N/A {pid:>9}      C   {name:<40}{used:>6}MiB |"


def smi(used: tuple[int, int], *rows: tuple[int, int, str, int], busy: int = 0) -> str:
    listed = [ROW.format(gpu=g, pid=p, name=n, used=u) for g, p, n, u in rows]
    return SMI.format(used0=used[0], used1=used[1], busy0=busy, rows="\n".join(listed or [NOBODY]))


def test_a_table_of_a_healthy_machine_is_no_report() -> None:
    assert read(smi((3, 3))) == []
    assert read(smi((4105, 3), busy=97)) == []  # a container: nobody is listed
    assert read(smi((14210, 3), busy=97)) == []
    assert read(smi((13900, 13900), (0, 17, "python", 13890), (1, 18, "python", 13890))) == []
    assert read(smi((3000, 3), (0, 17, "python", 1200), (0, 18, "python", 1700))) == []


def test_memory_that_nobody_holds_is_a_report() -> None:
    (told,) = read(smi((14210, 3)))
    assert told.marks == {"nobodys_memory"}
    assert dict(told.fields) == {
        "gpu": 0,
        "used_bytes": 14210 * MIB,
        "total_bytes": 15360 * MIB,
    }
    (told,) = read(smi((9000, 2100), (1, 17, "python", 2090)))
    assert (told.fields["gpu"], told.marks) == (0, {"nobodys_memory"})


def test_dead_and_crowding_processes_are_listed() -> None:
    (told,) = read(smi((9000, 3), (0, 4242, "[Not Found]", 8990), busy=0))
    assert told.marks == {"dead_process"}
    assert told.fields["processes"] == [{"pid": 4242, "bytes": 8990 * MIB}]
    (told,) = read(
        smi((14900, 3), (0, 17, "python3", 9000), (0, 18, "/opt/jupyter/bin/python", 5800))
    )
    assert told.marks == {"shared_gpu"}
    assert [p["pid"] for p in told.fields["processes"]] == [17, 18]


def test_lists_of_processes_are_read() -> None:
    (told,) = read("pid, used_gpu_memory [MiB]\n3794364, 5144 MiB\n3800979, 5154 MiB")
    assert told.fields["processes"] == [
        {"pid": 3794364, "bytes": 5144 * MIB},
        {"pid": 3800979, "bytes": 5154 * MIB},
    ]
    assert read("pid, used_gpu_memory [MiB]\n3794364, 5144 MiB") == []


# --- false alarms

HEALTHY: tuple[str, ...] = (
    """\
INFO 08-19 07:50:58 llm_engine.py:174] Initializing an LLM engine (v0.5.4) with config: model='google/gemma-2-2b-it', enforce_eager=False, gpu_memory_utilization=0.9
INFO 08-19 07:51:03 model_runner.py:732] Loading model weights took 4.9975 GB
INFO 08-19 07:51:08 gpu_executor.py:102] # GPU blocks: 11491, # CPU blocks: 2520
INFO 08-19 07:51:12 model_runner.py:1024] Capturing the model for CUDA graphs. This may lead to unexpected consequences if the model is not static.
INFO 08-19 07:51:12 model_runner.py:1028] CUDA graphs can take additional 1~3 GiB memory per GPU. If you are running out of memory, consider decreasing `gpu_memory_utilization` or enforcing eager mode.
INFO 08-19 07:51:24 model_runner.py:1225] Graph capturing finished in 12 secs.
INFO:     Started server process [17]
INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)
INFO 08-19 07:52:24 metrics.py:406] Avg prompt throughput: 0.0 tokens/s, Running: 0 reqs, GPU KV cache usage: 0.0%""",
    """\
INFO 10-25 13:08:30 [gpu_model_runner.py:2653] Model loading took 14.9888 GiB memory and 3.512345 seconds
INFO 10-25 13:08:41 [gpu_worker.py:298] Available KV cache memory: 52.13 GiB
INFO 10-25 13:08:41 [kv_cache_utils.py:1087] GPU KV cache size: 426,976 tokens
INFO 10-25 13:08:41 [kv_cache_utils.py:1091] Maximum concurrency for 4,096 tokens per request: 104.24x
INFO 10-25 13:08:55 [gpu_model_runner.py:3480] Graph capturing finished in 13 secs, took 0.75 GiB
INFO 10-25 13:08:55 [gpu_worker.py:391] Free memory on device (78.5/79.2 GiB) on startup. Desired GPU memory utilization is (0.9, 71.28 GiB). Actual usage is 14.99 GiB for weight, 1.2 GiB for peak activation, 0.3 GiB for non-torch memory, and 0.75 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=55123456789` to fit into requested memory, or `--kv-cache-memory=61234567890` to fully utilize gpu memory. Current kv cache memory in use is 55987654321 bytes.""",
    """\
[2025-07-02 07:41:30] server_args=ServerArgs(model_path='Qwen/Qwen3-8B', mem_fraction_static=0.88, max_total_tokens=131072)
[2025-07-02 07:41:58] Load weight end. type=Qwen3ForCausalLM, dtype=torch.bfloat16, avail mem=62.17 GB, mem usage=15.32 GB.
[2025-07-02 07:41:59] max_total_tokens=131072 is larger than the profiled value 98304. Use the profiled value instead.
[2025-07-02 07:42:00] KV Cache is allocated. #tokens: 98304, K size: 6.75 GB, V size: 6.75 GB
[2025-07-02 07:42:00] Memory pool end. avail mem=48.12 GB
[2025-07-02 07:42:09] max_total_num_tokens=98304, chunked_prefill_size=8192, max_running_requests=2048, context_len=40960, available_gpu_mem=46.11 GB
[2025-07-02 07:42:12] The server is fired up and ready to roll!""",
    """\
2024-06-12T09:17:11.412Z  INFO text_generation_router: router/src/main.rs:369: Warming up model
2024-06-12T09:17:12.005Z  INFO text_generation_launcher: Cuda Graphs are enabled for sizes [32, 16, 8, 4, 2, 1]
2024-06-12T09:17:13.881Z  INFO text_generation_router: router/src/main.rs:395: Setting max batch total tokens to 87584
2024-06-12T09:17:13.881Z  INFO text_generation_router: router/src/main.rs:396: Connected""",
    """\
load_tensors: offloading 32 repeating layers to GPU
load_tensors: offloaded 33/33 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   281.81 MiB
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
llama_context: n_ctx         = 4096
llama_kv_cache: size =  512.00 MiB (  4096 cells,  32 layers,  1/1 seqs), K (f16):  256.00 MiB, V (f16):  256.00 MiB
llama_context:      CUDA0 compute buffer size =   300.01 MiB
common_params_fit_impl: projected to use 899 MiB of device memory vs. 16140 MiB of free device memory
common_params_fit_impl: will leave 15240 >= 1024 MiB of free device memory, no changes needed
main: server is listening on http://127.0.0.1:8080 - starting the main loop""",
    """\
ggml_metal_init: recommendedMaxWorkingSetSize  = 22906.50 MB
ggml_metal_log_allocated_size: allocated buffer, size =  4096.02 MiB, ( 4096.08 / 21845.34)
llama_new_context_with_model: graph nodes  = 1030""",
    """\
ggml_vulkan: Found 1 Vulkan devices:
ggml_vulkan: 0 = NVIDIA GeForce RTX 3060 (NVIDIA) | uma: 0 | fp16: 1 | warp size: 32
load_tensors:      Vulkan0 model buffer size =  4155.99 MiB""",
    OFFLOAD.format(free=40, layers=49, gpus="22.9 GiB", full=6),
    """\
2026-01-02 10:00:00.123456: I tensorflow/core/common_runtime/gpu/gpu_device.cc:1928] Created device /job:localhost/replica:0/task:0/device:GPU:0 with 13942 MB memory:  -> device: 0, name: Tesla T4
2026-01-02 10:00:01.123456: W external/local_tsl/tsl/framework/cpu_allocator_impl.cc:83] Allocation of 188160000 exceeds 10% of free system memory.
Epoch 1/5
1875/1875 [==============================] - 4s 2ms/step - loss: 0.2982""",
    """\
WARNING:absl:An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. Falling back to cpu.
step 100 loss 2.312
rpc error: code = RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Read requests'""",
    """\
[TensorRT-LLM][INFO] [MemUsageChange] Allocated 37812.51 MiB for execution context memory.
[TensorRT-LLM][INFO] Memory usage when calculating max tokens in paged kv cache: total: 79.11 GiB, available: 26.42 GiB
[TensorRT-LLM][INFO] Number of blocks in KV cache primary pool: 2973""",
    "| vLLM does not start: `ValueError: No available memory for the cache blocks` | `--gpu-memory-utilization` too low | raise it |",
    "Unused kwargs: ['_load_in_4bit', '_load_in_8bit', 'quant_method']. These kwargs are not used in <class 'transformers.utils.quantization_config.BitsAndBytesConfig'>.",
    "If you hit `ValueError: No available memory for the cache blocks`, check the size of the card first.",
    "When the KV cache pool is full, requests are retracted.",
    "Fixes a crash where the model runner could run out of memory when warming up the sampler.",
)
SOURCES: tuple[str, ...] = (
    'f"Some parameters are on the meta device because they were offloaded to the {devices}."',
    'raise ValueError(\n    """\n    Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit',
    'raise ValueError("No available memory for the cache blocks. " "Try increasing `gpu_memory_utilization` when "',
    '        f"To serve at least one request with the model\'s max seq len ({max_model_len}), ({needed:.2f} GiB KV cache is needed, which is larger than the available KV cache memory ({available:.2f} GiB)."',
    'OOM = "No available memory for the cache blocks" in log',
    'assert _is_memory_failure("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.")',
    'GGML_LOG_ERROR("%s: allocating %.2f MiB on device %d: cudaMalloc failed: %s\\n", __func__, size / 1024.0 / 1024.0, device, cudaGetErrorString(err));',
    'if "model requires more system memory" in str(error):',
    'return fmt.Errorf("model requires more system memory (%s) than is available (%s)", required, available)',
    'throw std::runtime_error("failed to allocate buffer for kv cache");',
    'msg << "[malloc] Unable to allocate " << size << " bytes.";',
    'logger.info(f"Unused kwargs: {list(kwargs.keys())}. These kwargs are not used in {self.__class__}.")',
    'elif "Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM" in text:',
    'RE = re.compile(r"OOM when allocating tensor with shape\\[(.*?)\\]")',
)


@pytest.mark.parametrize("text", [*HEALTHY, *SOURCES], ids=lambda x: x[:50])
def test_healthy_logs_and_sources_are_no_failures(text: str) -> None:
    assert [(r.family, r.quote) for r in [*read(text), *reports_in(text)]] == []


@pytest.mark.parametrize(("text", "family", "fields"), SAID, ids=lambda x: str(x)[:40])
def test_with_every_reader_and_the_cleaning_the_same_is_told(
    text: str, family: str, fields: dict[str, Any]
) -> None:
    told = [report for report in reports_in(text) if report.family == family]
    assert fields in [dict(report.fields) for report in told]


def test_a_graph_capture_is_a_trace_only_where_the_log_ends_in_it() -> None:
    start, _, goes_on = HEALTHY[0].partition("\nINFO 08-19 07:51:24")
    assert [told.marks for told in read(start)] == [{"no_error_line", "graph_capture"}]
    assert goes_on and read(HEALTHY[0]) == []


def test_a_warm_up_frame_is_a_trace_only_without_the_error() -> None:
    frames = '  File "vllm/v1/worker/gpu_worker.py", line 507, in compile_or_warm_up_model\n    self.model_runner._dummy_sampler_run(hidden_states=last_hidden_states)\n'
    assert [told.weight for told in read(frames)] == ["aftermath"]
    assert read(frames + "TypeError: unsupported operand\n") == []


# --- whatever comes

MESSAGES = [text for text, _, _ in SAID] + [text for text, _ in MARKED]


def _every(text: str) -> list[Report]:
    return [told for reader in ENGINES for told in reader.read(flat(text))]


@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=4), st.data())
def test_cut_and_mixed_messages_never_crash(texts: list[str], data: st.DataObject) -> None:
    whole = "\n".join(texts)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    noise = data.draw(st.text(max_size=20))
    for told in _every(whole[:start] + noise + whole[end:]):
        assert 1 <= told.line <= told.last_line
        assert all(
            isinstance(value, int) for name, value in told.fields.items() if name.endswith("_bytes")
        )


@given(
    st.integers(1, 10**7),
    st.decimals(0, 99999, places=2, allow_nan=False),
    st.decimals(0, 99999, places=2, allow_nan=False),
)
def test_any_number_is_read_as_printed(length: int, needed: Any, available: Any) -> None:
    told = first(
        f"ValueError: To serve at least one request with the model's max seq len ({length}), ({needed} GiB KV cache is needed, which is larger than the available KV cache memory ({available} GiB). Try"
    )
    assert dict(told.fields) == {
        "max_model_len": length,
        "kv_needed_bytes": int(needed * GIB),
        "kv_available_bytes": int(available * GIB),
    }


@pytest.mark.parametrize("reader", ENGINES, ids=lambda reader: reader.name)
def test_every_needle_is_one_that_the_reader_needs(reader: Any) -> None:
    """A text that a reader finds something in holds a needle of it within one line."""
    for text in MESSAGES:
        if list(reader.read(flat(text))):
            assert any(n in line for n in reader.needles for line in text.splitlines()), text


@pytest.mark.parametrize("reader", ENGINES, ids=lambda reader: reader.name)
def test_a_text_full_of_messages_is_read_in_linear_time(reader: Any) -> None:
    """Eight times the text takes about eight times as long; a square would take 64 times."""
    text = "\n".join(MESSAGES)
    texts = [flat(text), flat("\n".join([text] * 8))]
    for each in texts:
        assert each.text  # joined before the clock runs
    short, long = texts
    assert grows_at_most(
        30, lambda: list(reader.read(short)), lambda: list(reader.read(long)), least=0.002
    )
