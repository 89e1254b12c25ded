"""Loading and inference without a known scenario."""

from __future__ import annotations

from typing import Final

from willfit.doctor.advice.hints.hint import Hint

_ENGINES: Final = (
    "vllm", "sglang", "tgi", "tensorrt-llm", "llama.cpp", "ollama", "lmstudio", "mlx", "jax",
    "tensorflow", "paddle", "pytorch-cuda+vllm", "pytorch-hip+vllm",
)  # fmt: skip

HINTS: Final = (
    Hint(
        causes=frozenset({"model_too_big", "loading_peak"}),
        id="dtype=bfloat16",
        title="Load in 16 bit where it is loaded in 32",
        snippet="from_pretrained(..., dtype=torch.bfloat16)   # torch_dtype before transformers 5",
        not_families=(*_ENGINES, "bitsandbytes"),
    ),
    Hint(
        causes=frozenset({"model_too_big"}),
        id="quantize=nf4",
        title="Load the weights in 4 bit (NF4)",
        snippet=(
            "from_pretrained(..., quantization_config=BitsAndBytesConfig(load_in_4bit=True,\n"
            '    bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16))'
        ),
        not_families=_ENGINES,
        quality="slight",
    ),
    Hint(
        causes=frozenset({"model_too_big"}),
        id="max_memory=cpu",
        title="Leave part of the weights on the host: slow",
        snippet='from_pretrained(..., device_map="auto", max_memory={0: "13GiB", "cpu": "30GiB"})',
        not_families=_ENGINES,
    ),
    Hint(
        causes=frozenset({"activations_batch_seq"}),
        id="batch_size=1",
        title="Fewer or shorter inputs at a time",
        snippet="for batch in DataLoader(rows, batch_size=1): ...   # under torch.inference_mode()",
        stages=frozenset({"inference", "generate", "eval", "load"}),
        not_families=_ENGINES,
    ),
    Hint(
        causes=frozenset({"vision_tokens"}),
        id="max_pixels",
        title="Smaller or fewer images: their tokens are what grows",
        snippet="processor = AutoProcessor.from_pretrained(name, max_pixels=1024 * 28 * 28)",
        quality="slight",
    ),
    Hint(
        causes=frozenset({"kv_cache"}),
        id="context=2048",
        title="A shorter context: the cache grows by the token",
        snippet="model.generate(..., max_new_tokens=256)   # and a shorter prompt",
        not_families=_ENGINES,
        quality="real",
    ),
    Hint(
        causes=frozenset({"kv_cache"}),
        id="cache=offloaded",
        title="Keep the cache on the host: slower",
        snippet='model.generate(..., cache_implementation="offloaded")',
        not_families=_ENGINES,
    ),
    Hint(
        causes=frozenset({"jit_overhead", "cuda_graphs"}),
        id="leave_room",
        title="Leave room for kernels that are compiled and loaded at the first request",
        snippet="--gpu-memory-utilization 0.85",
        families=("triton", "cuda-error"),
    ),
    Hint(
        causes=frozenset({"allocator_limit"}),
        id="smaller_buffer",
        title="Ask for smaller pieces: one allocation has a limit of its own on this device",
        snippet="llama-server -ub 512 -c 8192   # PyTorch: a smaller batch",
    ),
)
