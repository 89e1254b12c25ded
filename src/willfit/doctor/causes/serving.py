"""Serving: what vLLM, SGLang, TGI and TensorRT-LLM say, and whether to raise or to lower."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import TORCH, has, is_of, says
from willfit.doctor.report import Report
from willfit.units import GIB

ONE_CONTEXT: Final = GIB // 2
"""A CUDA context with PyTorch's kernels is 0.2 to 0.5 GiB: a shortfall below that needs no other
process."""
FEW_TOKENS: Final = 1024
"""A prefill of so few tokens has activations of some tens of MiB: if it does not fit, nothing
would."""
_NO_BLOCKS: Final = re.compile(r"No available memory for the cache blocks|increase --mem-fraction"
                               r"|no GPU memory for the KV cache|not enough GPU memory"
                               r"|Insufficient memory to allocate KV")  # fmt: skip
_SLOTS: Final = re.compile(r"alloc_req_slots|--max-running-requests")
_POOL: Final = re.compile(
    r"KV cache pool|Try to allocate \d|out of memory\. Try to lower your batch"
)
_NONE: Final = re.compile(r"NoneType")
_WORKSPACE: Final = re.compile(r"AlignedAllocator")
_BARE: Final = ("cuda-error", "cublas", "nvml-assert")
"""PyTorch's messages without its allocator's numbers."""
_PROFILE: Final = re.compile(r"Error in memory profiling")
_BALANCE: Final = re.compile(r"memory capacity is unbalanced")
_SAMPLER: Final = re.compile(r"warming up (?:sampler|pooler)|_dummy_sampler_run")
_BUFFERS: Final = re.compile(r"cudaMallocAsync|tllmBuffers")
LOWER: Final = "It failed after the cache was reserved: lower the fraction, there is no room left."
_RAISE: Final = "It failed before there was a cache: raise the fraction, or shrink what is loaded."


def _find(report: Report) -> Cause | None:
    if not is_served(report):
        return None
    return _by_words(report, Numbers(report))


def is_served(report: Report) -> bool:
    """Whether a serving engine wrote it, or PyTorch inside one."""
    engines = ("vllm", "vllm-cumem", "sglang", "tgi", "tensorrt-llm", "deepspeed")
    torch_in_engine = is_of(report, *TORCH, *_BARE) and has(report, "vllm", "sglang", "tgi")
    return is_of(report, *engines) or torch_in_engine


def _by_words(report: Report, numbers: Numbers) -> Cause | None:
    """What the engine itself says, in its own numbers."""
    return (
        _startup(numbers)
        or _cache(numbers)
        or _tokens(numbers)
        or _said(report)
        or _prefill(report)
    )


def _startup(numbers: Numbers) -> Cause | None:
    """``Free memory on device (F/T) on startup is less than desired (u, R)``."""
    free, total, wanted = numbers.free, numbers.total, numbers.of("requested_bytes")
    if free is None or total is None or wanted is None:
        return None
    used = worked_out(total, ("−", free, "free"))
    short = worked_out(wanted, ("−", free, "free"))
    if wanted - free <= ONE_CONTEXT:
        return likely(
            "context_overhead",
            f"It is short by {short}, less than one CUDA context (0.2 to 0.5 GiB).",
            "Lower the fraction by that much.",
        )
    return certain(
        "other_process",
        f"{used} was in use before the engine started.",
        f"It is short "
        f"by {short}: end that process, or lower the fraction below "
        f"{free / total:.2f}.",
    )


def _cache(numbers: Numbers) -> Cause | None:
    """The longest request against the room for the cache, in bytes or in tokens."""
    needed, room = numbers.of("kv_needed_bytes"), numbers.of("kv_available_bytes")
    length, tokens = numbers.of("max_model_len"), numbers.of("kv_tokens")
    estimated = numbers.of("estimated_max_len")
    fits = f"About {estimated:,} tokens fit." if estimated else ""
    if needed and room is not None:
        text = worked_out(needed, ("−", room, "available"))
        return certain(
            "kv_cache",
            f"One request of the full length needs {amount(needed)} of KV cache: {text} missing.",
            fits,
        )
    if length and tokens is not None:
        return certain(
            "kv_cache",
            f"A request may have {length:,} tokens and the cache holds "
            f"{tokens:,}: {length:,} − {tokens:,} = {length - tokens:,} too "
            "many.",
            fits,
        )
    return None


def _tokens(numbers: Numbers) -> Cause | None:
    """SGLang's budget in tokens; below zero the weights are above it."""
    profiled = numbers.of("profiled_tokens")
    if profiled is None:
        return None
    if profiled <= 0:
        return certain(
            "model_too_big",
            f"{profiled:,} tokens are left for the cache: the weights "
            "alone exceed the engine's part of the card.",
        )
    return likely("kv_cache", f"The cache holds {profiled:,} tokens, fewer than were asked for.")


def _said(report: Report) -> Cause | None:
    for pattern, give in _SAYINGS:
        if says(report, pattern):
            return give
    return None


_SAYINGS: Final = (
    (_NO_BLOCKS, likely("serving_budget", "Weights and profiling fill the engine's part of the "
     "card: no KV cache is left.", _RAISE)),
    (_SLOTS, certain("slots_limit", "The table of running requests is full, which is a setting and "
     "not memory.")),
    (_WORKSPACE, certain("workspace_limit", "A work buffer of fixed size is too small for this "
     "batch: it is not the card that is full.")),
    (_PROFILE, likely("other_process", "Free memory grew while the engine measured itself: another "
     "process on the card ended or shrank meanwhile.")),
    (_BALANCE, likely("other_process", "The GPUs differ in free memory before anything is loaded: "
     "somebody else is on one of them.")),
    (_SAMPLER, certain("logits_vocab", "The sampler sorts the logits of its largest batch: rows × "
     "vocabulary × 12 bytes (a float32 value and an int64 index).", LOWER)),
    (_POOL, likely("kv_cache", "The cache's pool has no room for the tokens of this batch.")),
    (_NONE, guess("kv_cache", "The pool gave nothing back where indices were expected: it was "
     "full.")),
    (_BUFFERS, likely("activations_batch_seq", "The engine's buffers are sized for its largest "
     "batch × length, which is set when it is built.")),
)  # fmt: skip


def _prefill(report: Report) -> Cause | None:
    tokens = report.fields.get("prefill_tokens")
    if not isinstance(tokens, int) or not is_of(report, "tgi"):
        return None
    if tokens <= FEW_TOKENS:
        return likely("model_too_big", f"Even {tokens:,} tokens do not fit beside the weights.")
    return likely("activations_batch_seq", f"A prefill of {tokens:,} tokens at once does not fit.")


RULE: Final = Rule(
    name="serving budget",
    mechanism="An engine divides its part of the card once: before that a larger part helps, after "
    "it a smaller one.",
    find=_find,
)
