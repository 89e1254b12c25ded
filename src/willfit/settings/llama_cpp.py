"""A ``llama-server`` or ``llama-cli`` command line. It is read as words, never run."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Final

from willfit.settings.commands import options, words_of
from willfit.settings.settings import Convert, Settings, convert_all, renamed, unused, whole

PROGRAMS: Final = ("llama-server", "llama-cli", "llama-run", "llama-bench")


def recognise(command: str) -> bool:
    """Whether a text is such a command."""
    words = words_of(command)
    return bool(words) and PurePosixPath(words[0]).name in PROGRAMS


def read(command: str) -> Settings:
    """Model file or repository, context, parallel slots and cache type."""
    model, given = options(words_of(command)[1:], short=_SHORT, switches=_SWITCHES)
    flags, ignored = convert_all(given, TABLE, HARMLESS)
    model = str(flags.pop("model", model or "")) or None
    flags["engine"] = "llama.cpp"
    return Settings(
        flags=flags,
        model=model,
        ignored=ignored,
        assumptions=("every layer counted on the GPU",),
    )


def _cache_type(value: Any) -> dict[str, Any]:
    return {"kv_dtype": str(value)}


TABLE: Final[dict[str, Convert]] = {
    "model": renamed("model"),
    "hf_repo": renamed("model"),
    "ctx_size": whole("context"),
    "cache_type_k": _cache_type,
    "cache_type_v": _cache_type,
    "n_gpu_layers": unused("every layer is counted on the GPU; with fewer there it takes less"),
}
_SHORT: Final = {
    "m": "model", "hf": "hf_repo", "hfr": "hf_repo", "c": "ctx_size", "ctk": "cache_type_k",
    "ctv": "cache_type_v", "ngl": "n_gpu_layers", "np": "parallel", "t": "threads", "p": "prompt",
    "n": "predict", "b": "batch_size", "ub": "ubatch_size", "fa": "flash_attn",
}  # fmt: skip
_SWITCHES: Final = frozenset({"mlock", "no_mmap", "jinja", "verbose", "cont_batching"})
HARMLESS: Final = (
    "host", "port", "threads", "prompt", "api_key", "jinja", "verbose", "mlock", "no_mmap", "alias",
    "temp", "top_k", "top_p", "seed", "cont_batching", "chat_template", "predict",
)  # fmt: skip
