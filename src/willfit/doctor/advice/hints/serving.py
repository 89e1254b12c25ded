"""Serving engines: the same words ask to raise a limit at start and to lower it at work."""

from __future__ import annotations

from typing import Final

from willfit.doctor.advice.hints.hint import Hint
from willfit.doctor.report import Report

_VLLM: Final = ("vllm", "pytorch-cuda+vllm", "pytorch-hip+vllm", "triton")
_LLAMA: Final = ("llama.cpp", "ollama", "lmstudio")


def _longest(report: Report) -> str | None:
    """What the engine itself says that fits."""
    tokens = report.fields.get("estimated_max_len") or report.fields.get("kv_tokens")
    return f"vllm serve MODEL --max-model-len {tokens}" if tokens else None


def _share(report: Report) -> str | None:
    """The share of the GPU that is free, rounded down to a percent."""
    free, total = report.fields.get("free_bytes"), report.fields.get("total_bytes")
    if not free or not total:
        return None
    return f"vllm serve MODEL --gpu-memory-utilization {free * 100 // total / 100:.2f}"


def _missing(report: Report) -> int | None:
    needed = report.fields.get("kv_needed_bytes")
    available = report.fields.get("kv_available_bytes")
    return needed - available if needed is not None and available is not None else None


def _half(report: Report) -> int | None:
    needed = report.fields.get("kv_needed_bytes")
    return needed // 2 if needed is not None else None


HINTS: Final = (
    Hint(
        causes=frozenset({"kv_cache"}),
        id="max_model_len",
        title="A shorter longest request: the cache must hold one whole",
        snippet="vllm serve MODEL --max-model-len 8192",
        families=_VLLM,
        saves=_missing,
        fitted=_longest,
        quality="real",
    ),
    Hint(
        causes=frozenset({"kv_cache"}),
        id="kv_dtype=float8_e4m3fn",
        title="The cache in 8 bit: twice the tokens in the same room",
        snippet="vllm serve MODEL --kv-cache-dtype fp8",
        families=_VLLM,
        saves=_half,
        quality="slight",
    ),
    Hint(
        causes=frozenset({"kv_cache", "serving_budget"}),
        id="raise_utilization",
        title="At start, no room for the cache: raise the share of the GPU, or shrink the model",
        snippet="vllm serve MODEL --gpu-memory-utilization 0.95   # if nothing else is on the card",
        families=("vllm",),
    ),
    Hint(
        causes=frozenset({"serving_budget", "cuda_graphs", "logits_vocab"}),
        id="lower_utilization",
        title="At work or while warming up: lower the share of the GPU",
        snippet="vllm serve MODEL --gpu-memory-utilization 0.85 --max-num-seqs 64",
        families=("pytorch-cuda+vllm", "pytorch-hip+vllm", "triton"),
    ),
    Hint(
        causes=frozenset({"other_process", "context_overhead"}),
        id="lower_utilization",
        title="Or ask for the share that is free",
        snippet="vllm serve MODEL --gpu-memory-utilization 0.85",
        families=("vllm",),
        fitted=_share,
    ),
    Hint(
        causes=frozenset({"cuda_graphs"}),
        id="enforce_eager",
        title="No CUDA graphs: frees 0.5 to 3 GiB a card, decoding is slower",
        snippet="vllm serve MODEL --enforce-eager   # or --gpu-memory-utilization 0.85",
        families=_VLLM,
    ),
    Hint(
        causes=frozenset({"logits_vocab"}),
        id="max_num_seqs",
        title="Fewer requests at a time: the sampler sorts a row of the vocabulary for each",
        snippet="vllm serve MODEL --max-num-seqs 64",
        families=_VLLM,
    ),
    Hint(
        causes=frozenset({"model_too_big"}),
        id="quantized_checkpoint",
        title="A quantised checkpoint, or more GPUs",
        snippet="vllm serve MODEL-AWQ --tensor-parallel-size 2   # or --cpu-offload-gb 8",
        families=(*_VLLM, "sglang", "tgi", "tensorrt-llm"),
        quality="slight",
    ),
    Hint(
        causes=frozenset({"serving_budget"}),
        id="raise_mem_fraction",
        title="At start: raise the static share; at work: lower it",
        snippet="--mem-fraction-static 0.9   # 'Not enough memory' at start; at work 0.8",
        families=("sglang",),
    ),
    Hint(
        causes=frozenset({"kv_cache", "slots_limit"}),
        id="lower_mem_fraction",
        title="Fewer requests at a time, and a smaller static share",
        snippet="--max-running-requests 16 --mem-fraction-static 0.8",
        families=("sglang",),
    ),
    Hint(
        causes=frozenset({"workspace_limit"}),
        id="larger_workspace",
        title="A larger workspace of FlashInfer: it is fixed, and is not the GPU's memory",
        snippet="export SGLANG_FLASHINFER_WORKSPACE_SIZE=2147483648",
    ),
    Hint(
        causes=frozenset({"serving_budget", "activations_batch_seq", "model_too_big"}),
        id="max_batch_prefill_tokens",
        title="Fewer tokens at a time, and a smaller share of the GPU",
        snippet="--max-batch-prefill-tokens 2048 --cuda-memory-fraction 0.9",
        families=("tgi",),
    ),
    Hint(
        causes=frozenset({"serving_budget", "activations_batch_seq", "model_too_big", "kv_cache"}),
        id="smaller_engine",
        title="Build the engine for fewer and shorter requests, and give the cache less",
        snippet=(
            "trtllm-build --max_batch_size 8 --max_seq_len 8192\n"
            "kv_cache_free_gpu_mem_fraction: 0.8"
        ),
        families=("tensorrt-llm",),
    ),
    Hint(
        causes=frozenset({"kv_cache"}),
        id="num_ctx",
        title="A shorter context, or a cache in 8 bit",
        snippet=(
            "llama-server -m FILE -c 8192 -fa on -ctk q8_0 -ctv q8_0\n"
            "/set parameter num_ctx 8192   # ollama"
        ),
        families=(*_LLAMA, "mlx"),
        quality="slight",
    ),
    Hint(
        causes=frozenset({"compute_buffer"}),
        id="ubatch_size",
        title="A smaller physical batch: the compute buffer grows with it",
        snippet="llama-server -m FILE -ub 256 -b 1024 -fa on",
        families=_LLAMA,
    ),
    Hint(
        causes=frozenset({"model_too_big", "compute_buffer", "vision_tokens"}),
        id="n_gpu_layers",
        title="Fewer layers on the GPU, or a smaller file",
        snippet="llama-server -m FILE -ngl 24\n/set parameter num_gpu 24   # ollama",
        families=_LLAMA,
        not_fields=("host_required_bytes",),
    ),
    Hint(
        causes=frozenset({"model_too_big", "host_ram"}),
        id="smaller_file",
        title="A smaller quantisation of the model",
        snippet="MODEL:8b-q4_K_M   # about 0.6 bytes a parameter",
        families=("ollama", "lmstudio", "mlx"),
        quality="slight",
    ),
    Hint(
        causes=frozenset({"other_process", "activations_batch_seq", "model_too_big"}),
        id="no_preallocation",
        title="Stop JAX from taking three quarters of the card at start",
        snippet="export XLA_PYTHON_CLIENT_PREALLOCATE=false",
        families=("jax",),
    ),
)
