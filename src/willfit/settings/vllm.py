"""A ``vllm serve MODEL …`` command line. It is read as words, never run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from willfit.errors import InputError
from willfit.settings.commands import options, words_of
from willfit.settings.settings import (
    Convert,
    Settings,
    convert_all,
    nothing,
    renamed,
    switch,
    unused,
    whole,
)

_LAUNCHES: Final = (
    ("vllm", "serve"),
    ("python", "-m", "vllm.entrypoints.openai.api_server"),
    ("python3", "-m", "vllm.entrypoints.openai.api_server"),
)


def recognise(command: str) -> bool:
    """Whether a text is such a command, environment assignments before it aside."""
    return _body(words_of(command)) is not None


def read(command: str) -> Settings:
    """Model, context, sequences, cache type and parallelism of a server."""
    body = _body(words_of(command)) or []
    model, given = options(body, short=_SHORT, switches=_SWITCHES)
    flags, ignored = convert_all(given, TABLE, HARMLESS)
    model = str(flags.pop("model", model or "")) or None
    flags["engine"] = "vllm"
    return Settings(
        flags=flags,
        model=model,
        ignored=ignored,
        assumptions=("counted is what the given sequences need; vLLM fills the rest with cache",),
    )


def _body(words: Sequence[str]) -> list[str] | None:
    rest = list(words)
    while rest and re.fullmatch(r"[A-Za-z_]\w*=.*", rest[0]):
        rest.pop(0)
    for launch in _LAUNCHES:
        if tuple(rest[: len(launch)]) == launch:
            return rest[len(launch) :]
    return None


def _tensor_parallel(value: Any) -> dict[str, Any]:
    degree = int(whole("tensor_parallel_size")(value)["tensor_parallel_size"])
    return {"strategy": "tp"} if degree > 1 else {}


def _context(value: Any) -> dict[str, Any]:
    """``8192``, ``8k`` (1,000s) or ``8K`` (1,024s), as vLLM reads it."""
    match = re.fullmatch(r"(\d{1,12})([kKmM]?)", str(value))
    if match is None:
        raise InputError(f"max-model-len is {str(value)[:40]!r}: expected a number of tokens")
    factor = {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}[match[2]]
    return {"context": int(match[1]) * factor}


def _cache_dtype(value: Any) -> dict[str, Any]:
    names = {"fp8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
    return {} if value == "auto" else {"kv_dtype": names.get(str(value), str(value))}


TABLE: Final[dict[str, Convert]] = {
    "model": renamed("model"),
    "dtype": lambda value: {} if value == "auto" else {"dtype": str(value)},
    "max_model_len": _context,
    "max_num_seqs": whole("batch_size"),
    "kv_cache_dtype": _cache_dtype,
    "tensor_parallel_size": _tensor_parallel,
    "trust_remote_code": switch("trust_remote_code"),
    "revision": renamed("revision"),
    "quantization": nothing,
    "gpu_memory_utilization": unused("the cache's pool is not counted, only what sequences need"),
    "pipeline_parallel_size": unused("stages of a pipeline are not counted: add --gpu NAMExN"),
}
_SHORT: Final = {"tp": "tensor_parallel_size", "q": "quantization"}
_SWITCHES: Final = frozenset(
    {"trust_remote_code", "enforce_eager", "enable_prefix_caching", "enable_auto_tool_choice",
     "disable_log_requests", "enable_chunked_prefill", "enable_lora"}
)  # fmt: skip
HARMLESS: Final = (
    "host", "port", "api_key", "served_model_name", "disable_log_requests", "seed",
    "uvicorn_log_level", "enable_auto_tool_choice", "tool_call_parser", "chat_template",
    "reasoning_parser", "tokenizer", "tokenizer_mode",
)  # fmt: skip
