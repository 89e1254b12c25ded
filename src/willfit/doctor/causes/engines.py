"""Engines on ggml and Metal: llama.cpp, ollama, LM Studio, MLX."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import TRAINING, is_of, marked, near, says
from willfit.doctor.report import Report

SEVERAL: Final = 2
"""A model that needs so many times the machine's free memory is too big; less, and closing
programs or a page file decides."""
NEARLY: Final = 0.9
"""Layers left on the host that take this part of its free memory leave none for the rest."""
TINY: Final = 2**20
_COMPUTE: Final = re.compile(r"compute (?:pp |tg )?buffers?|gallocr_reserve|graph_reserve"
                             r"|pool_malloc")  # fmt: skip
_CACHE: Final = re.compile(r"buffer for kv cache|kv_cache_init|for kv cache|kv cache.{0,30}failed",
                           re.IGNORECASE)  # fmt: skip
_WEIGHTS: Final = re.compile(r"unable to allocate \S{1,20} buffer|alloc_tensor_range|cublas",
                             re.IGNORECASE)  # fmt: skip
_REFUSED: Final = re.compile(r"cudaMalloc failed")
_BACKEND: Final = re.compile(r"0xc0000409|unable to allocate backend buffer")
_NAN: Final = re.compile(r"NaN")


def _find(report: Report) -> Cause | None:
    if is_of(report, "ollama"):
        return _ollama(report, Numbers(report))
    if is_of(report, "lmstudio"):
        return _guarded(report)
    if is_of(report, "llama.cpp", "llama.cpp-vulkan"):
        return _ggml(report)
    if is_of(report, "llama.cpp-metal", "mlx"):
        return _metal(report)
    return None


def _ollama(report: Report, numbers: Numbers) -> Cause | None:
    needed, room = numbers.of("host_required_bytes"), numbers.of("host_available_bytes")
    if needed and room:
        return _system(needed, room)
    if marked(report, "host") or says(report, _BACKEND):
        return likely(
            "host_ram", "The runner stopped where it allocates the layers that stay in host RAM."
        )
    if near(report, _REFUSED):
        return likely(
            "scheduler_split",
            "The scheduler placed the layers by its own estimate, and "
            "the GPU then refused a buffer: the estimate was too low.",
            _refused(numbers),
        )
    if marked(report, "context"):
        return guess(
            "scheduler_split",
            "The layers were placed by the scheduler's own estimate, and the context, which is the "
            "cache and the working buffers, could then not be made beside them.",
        )
    return _split(numbers) or _ggml(report)


def _system(needed: int, room: int) -> Cause:
    text = worked_out(needed, ("−", room, "available"))
    if needed > SEVERAL * room:
        return certain(
            "model_too_big",
            f"The model needs {needed / room:.1f} times the memory of "
            f"this machine: {text} missing.",
        )
    return certain("host_ram", f"Host RAM and swap: {text} missing.")


def _split(numbers: Numbers) -> Cause | None:
    """The scheduler's own figures: what does not fit on the GPU stays in host RAM."""
    full, gpu = numbers.of("required_full_bytes"), numbers.of("gpu_available_bytes")
    host = numbers.of("host_free_bytes")
    if not full or gpu is None:
        return None
    rest = full - gpu
    text = f"{worked_out(full, ('−', gpu, 'on the GPU'))} stay in host RAM"
    if host is not None and rest >= NEARLY * host:
        return likely("host_ram", f"{text}, of which {amount(host)} is free.")
    return guess("model_too_big", f"{text}.") if rest > 0 else None


def _guarded(report: Report) -> Cause:
    if marked(report, "estimate_nan") or says(report, _NAN):
        return certain(
            "not_a_memory_problem",
            "The estimate that stopped it is not a number: a bug of the guardrail.",
        )
    return likely("model_too_big", "The program's own estimate is above the machine's memory.")


def _ggml(report: Report) -> Cause | None:
    """Buffers come in three kinds, and the next line names the kind."""
    size = _refused(Numbers(report))
    if marked(report, "for_kv_cache") or (near(report, _CACHE) and not says(report, _COMPUTE)):
        return certain("kv_cache", "The buffer of the KV cache was refused.", size)
    if marked(report, "for_compute") or near(report, _COMPUTE):
        return likely(
            "compute_buffer",
            "The buffer for one step's computation was refused: it grows "
            "with the micro-batch (-ub), and with the context without flash "
            "attention.",
            size,
        )
    if marked(report, "for_weights") or near(report, _WEIGHTS):
        return likely("model_too_big", "The layers for this GPU were refused while loading.", size)
    if is_of(report, "llama.cpp") and Numbers(report).tried:
        return guess(
            "model_too_big", "A buffer was refused; the next line would tell its kind.", size
        )
    return guess(
        "model_too_big", "The GPU was full when its work began: too many layers are on it."
    )


def _refused(numbers: Numbers) -> str:
    return f"{amount(numbers.tried)} were asked for in one piece." if numbers.tried else ""


def _metal(report: Report) -> Cause:
    """Apple's GPU and system share memory; a command buffer fails at work, not at load."""
    tried = Numbers(report).tried
    if tried is not None:
        what = f"{amount(tried)} were refused: memory was used up before. " if tried < TINY else ""
        return likely(
            "activations_batch_seq",
            f"{what}The computation's tensors filled the memory that macOS lets the GPU use.",
        )
    if report.context.stage in TRAINING:
        return likely("activations_batch_seq", "A step's tensors did not fit.")
    return guess(
        "kv_cache",
        "The model was loaded and a command failed: what grows then is the "
        "cache, with the context.",
    )


RULE: Final = Rule(
    name="ggml and Metal engines",
    mechanism="These engines allocate weights, cache and compute buffer one after another and say "
    "which one failed.",
    find=_find,
)
