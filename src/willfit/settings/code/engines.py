"""Engines of their own: vLLM's ``LLM``, llama-cpp-python's ``Llama``, SentenceTransformer."""

from __future__ import annotations

from typing import Final

from willfit.settings import vllm
from willfit.settings.code.around import around
from willfit.settings.code.gathered import Gathered, plain
from willfit.settings.code.loading import read_dtype
from willfit.settings.code.reading import Load, Reading
from willfit.settings.code.values import Made, Site
from willfit.settings.settings import Convert, renamed, unused, whole


def _vllm(reading: Reading, load: Load, gathered: Gathered) -> None:
    gathered.flags.clear()
    gathered.flags["engine"] = "vllm"
    gathered.convert(load.site.given, VLLM, (*vllm.HARMLESS, *_VLLM_IDLE), of="LLM")
    gathered.flags.pop("model", None)
    for use in around(reading, load, "generate"):
        made = _made(use.site) if use.site is not None else []
        params = next((value for value in made if value.site.last == "SamplingParams"), None)
        new = plain(params.site.value("max_tokens")) if isinstance(params, Made) else None
        context = gathered.flags.get("context")
        if isinstance(new, int) and 0 < new < 2**31 and (context is None or new <= context):
            gathered.flags["max_new_tokens"] = new
    gathered.assume("counted is what the given sequences need; vLLM fills the rest with cache")


def _made(site: Site) -> list[Made]:
    return [item.value for item in site.given.values() if isinstance(item.value, Made)]


VLLM: Final[dict[str, Convert]] = {
    **vllm.TABLE,
    "dtype": read_dtype,
    "swap_space": unused("host memory is not counted"),
}
_VLLM_IDLE: Final = (
    "enforce_eager", "disable_log_stats", "max_logprobs", "enable_prefix_caching", "load_format",
    "max_seq_len_to_capture", "enable_chunked_prefill",
)  # fmt: skip


def _llama_cpp(_reading: Reading, load: Load, gathered: Gathered) -> None:
    gathered.flags.clear()
    gathered.flags["engine"] = "llama.cpp"
    gathered.convert(load.site.given, LLAMA_CPP, _LLAMA_IDLE, of="Llama")


LLAMA_CPP: Final[dict[str, Convert]] = {
    "n_ctx": whole("context"),
    "n_gpu_layers": unused("every layer is counted on the GPU; with fewer there it takes less"),
    "model_path": renamed("model"),
}
_LLAMA_IDLE: Final = ("verbose", "n_threads", "seed", "chat_format", "use_mlock", "use_mmap",
                      "n_batch", "repo_id", "filename", "logits_all")  # fmt: skip


def _sentences(_reading: Reading, load: Load, gathered: Gathered) -> None:
    uses = load.used("forward")
    batch = next((u.site.known("batch_size") for u in uses if u.site is not None), None)
    gathered.flags["batch_size"] = batch if isinstance(batch, int) else 32
    gathered.flags["padded"] = True
    for use in load.used("set .max_seq_length"):
        if isinstance(use.value, int):
            gathered.flags["context"] = use.value


ENGINES: Final = {"vllm": _vllm, "llama.cpp": _llama_cpp, "sentence-transformers": _sentences}
"""By who loads the model."""
