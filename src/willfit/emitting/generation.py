"""``generate``: its keyword arguments, the cache above all."""

from __future__ import annotations

from willfit.changes.current import dtype_of
from willfit.emitting.call import Call, Keywords
from willfit.emitting.loading import CAUSAL, SEQ2SEQ, auto_class
from willfit.emitting.versions import require
from willfit.errors import InputError
from willfit.formulas.inference.settings import fill_defaults
from willfit.scenario import Inference, Scenario

KERNELS = {
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
    "math": "MATH",
}
"""``torch.nn.attention.SDPBackend`` by our names."""


def generates(scenario: Scenario) -> bool:
    """Whether the workload is ``generate`` (else one forward pass)."""
    inference = scenario.workload.inference
    if inference is None or inference.full_logits:
        return False
    return auto_class(scenario) in (CAUSAL, SEQ2SEQ)


def generate_call(scenario: Scenario) -> Call | None:
    """``model.generate`` besides its inputs; None where the workload does not generate."""
    inference = scenario.workload.inference
    if inference is None or not generates(scenario):
        return None
    keywords = Keywords()
    settings = _settings(scenario, inference)
    keywords.set("max_new_tokens", settings[1])
    keywords.set("do_sample", False)
    _cache(scenario, inference, keywords)
    if inference.prefill_chunk_size is not None:
        require(scenario.stack, "prefill_chunk_size")
        keywords.set(
            "prefill_chunk_size", inference.prefill_chunk_size, "tokens of the prompt at a time"
        )
    return keywords.call("", "model.generate")


def _settings(scenario: Scenario, inference: Inference) -> tuple[int, int]:
    filled = fill_defaults(
        scenario.model.architecture, inference, dtype_of(scenario), scenario.stack
    )
    return filled.prompt_len, filled.new_tokens


def prompt_length(scenario: Scenario) -> int:
    """Tokens of the prompt, or of the only pass."""
    inference = scenario.workload.inference or Inference()
    prompt, new = _settings(scenario, inference)
    return prompt if generates(scenario) else prompt + new


def _cache(scenario: Scenario, inference: Inference, keywords: Keywords) -> None:
    kind, dtype = inference.cache, inference.kv_dtype
    if dtype is not None and dtype != dtype_of(scenario):
        if kind != "dynamic" or not dtype.name.startswith("float8_e4m3"):
            raise InputError(
                f"transformers holds no {kind} cache in {dtype.name}: its cache has the model's "
                "type; use --kv-dtype float8_e4m3fn or --cache quantized"
            )
        require(scenario.stack, "cache_config backend fp8")
        keywords.set("cache_implementation", "quantized", "keys and values in 8 bit")
        keywords.set("cache_config", {"backend": "fp8"})
        return
    if kind == "dynamic":
        return
    require(scenario.stack, f"cache_implementation {kind}")
    keywords.set("cache_implementation", kind, _REASONS[kind])
    if kind == "quantized":
        keywords.set("cache_config", {"backend": "quanto", "nbits": 4}, "needs optimum-quanto")


_REASONS = {
    "static": "room for the whole context at once",
    "quantized": "keys and values in 4 bit, the last 128 tokens whole",
    "offloaded": "layers' caches wait in host memory",
}
