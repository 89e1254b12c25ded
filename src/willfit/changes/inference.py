"""Inference: batch, context, KV cache, logits, prefill in pieces, a merged adapter."""

from __future__ import annotations

from typing import Any, Final

from willfit.changes.change import Change, Edit, Effort, Guard, Quality, guarded, halvings
from willfit.changes.current import context_of, lowest_sm
from willfit.changes.edit import inference_of, with_inference
from willfit.changes.guards import at_least, infers, on_transformers
from willfit.changes.numbers import powers
from willfit.dtypes import DTYPES
from willfit.formulas.inference.settings import CHUNKED_SINCE, STATES_CARRIED_SINCE
from willfit.scenario import Scenario

SMALLEST_CONTEXT: Final = 128
"""Below it nobody asks for an estimate."""


def _sets(**fields: Any) -> Edit:
    return lambda scenario: with_inference(scenario, **fields)


def _batch_over(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now = inference_of(scenario).batch_size
        return None if now > value else f"the batch is {now}"

    return guard


def _batch(value: int) -> Change:
    return Change(
        id=f"batch_size={value}",
        setting="batch_size",
        title=f"Run {value} sequence{'s' if value > 1 else ''} at a time",
        apply=guarded(_sets(batch_size=value), infers, _batch_over(value)),
    )


def _batch_under(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now = inference_of(scenario).batch_size
        return None if now < value else f"the batch is {now}"

    return guard


def _larger_batch(value: int) -> Change:
    return Change(
        id=f"batch_size={value}:larger",
        setting="batch_size",
        title=f"Run {value} sequences at a time, where there are so many",
        apply=guarded(_sets(batch_size=value), infers, _batch_under(value)),
        spends=True,
    )


def _context_over(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now, new = context_of(scenario), inference_of(scenario).max_new_tokens or 1
        if now <= value:
            return f"the context is {now} tokens"
        return f"{new} tokens are generated" if new >= value else None

    return guard


def _context(value: int) -> Change:
    return Change(
        id=f"context={value}",
        setting="context",
        title=f"Read and write at most {value:,} tokens",
        apply=guarded(_sets(context_len=value), infers, _context_over(value)),
        quality=Quality.REAL,
        quality_reason="the model reads less of the prompt",
        times=lambda scenario: halvings(context_of(scenario), value),
    )


def _generates(scenario: Scenario) -> str | None:
    architecture = scenario.model.architecture
    if architecture is not None and not architecture.is_decoder:
        return "the model has no KV cache"
    return None


def _classifies(scenario: Scenario) -> str | None:
    """Generating without a cache reads everything anew for every token."""
    name = scenario.model.model_class
    return None if name.endswith("ForSequenceClassification") else f"{name} generates"


def _caches(scenario: Scenario) -> str | None:
    return None if inference_of(scenario).use_cache else "no cache is kept"


def _in_one_tensor(scenario: Scenario) -> str | None:
    """A quantised cache unpacks a layer for every piece, a static one shows all of its places."""
    kind = inference_of(scenario).cache
    return f"the cache is {kind}" if kind in ("quantized", "static") else None


def _takes_masks(scenario: Scenario) -> str | None:
    """Later pieces see keys from before: SDPA is given a mask."""
    forced = inference_of(scenario).sdpa_kernel
    return "pieces need a mask, and the flash kernel is forced" if forced == "flash" else None


def _dynamic(scenario: Scenario) -> str | None:
    now = inference_of(scenario).cache
    return None if now == "dynamic" else f"the cache is {now}"


def _every_layer_caches_all(scenario: Scenario) -> str | None:
    """Transformers refuses a quantised cache for windows, states and encoder-decoders."""
    architecture = scenario.model.architecture
    if architecture is None:
        return "the model's layers are not known"
    if architecture.encoder_layers:
        return "transformers has no quantised cache for encoder-decoder models"
    plain = all(
        group.attention is not None and group.attention.window is None
        for group in architecture.layers
    )
    if plain and not any(group.recurrent is not None for group in architecture.layers):
        return None
    return "transformers refuses a quantised cache where a layer is not full attention"


def _keeps_no_states(scenario: Scenario) -> str | None:
    """Layers with a state of their own stay on the GPU; some models bring their own cache."""
    architecture = scenario.model.architecture
    if architecture is None:
        return "the model's layers are not known"
    if any(group.recurrent is not None for group in architecture.layers):
        return "the model's layers keep states of their own"
    return None


def _carries_states(scenario: Scenario) -> str | None:
    """Whether a scan goes on from one piece of a prompt to the next, with the same answer."""
    architecture = scenario.model.architecture
    if architecture is None:
        return "the model's layers are not known"
    mixers = [group.recurrent for group in architecture.layers if group.recurrent is not None]
    if not mixers:
        return None
    if not any(group.attention for group in architecture.layers):
        return "`generate` reads pieces into a KV cache, and no layer has one"
    if any(mixer.scan is not None and mixer.scan.kind == "selective" for mixer in mixers):
        return "the scan of Mamba-1 begins anew with each piece"
    if any(mixer.state_elements and mixer.scan is None for mixer in mixers):
        return "the model's layers keep states of their own"
    if not scenario.stack.at_least("transformers", STATES_CARRIED_SINCE):
        return f"states are carried from piece to piece since transformers {STATES_CARRIED_SINCE}"
    return None


def _cache(name: str, title: str, *guards: Guard, **fields: Any) -> Change:
    return Change(
        id=f"cache={name}",
        setting="cache",
        title=title,
        apply=guarded(_sets(cache=name), infers, on_transformers, _generates, _dynamic, *guards),
        **fields,
    )


def _engine(name: str) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now = inference_of(scenario).engine
        return None if now == name else f"it is a setting of {name}, the engine is {now}"

    return guard


def _wider_than(dtype: str) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now, new = inference_of(scenario).kv_dtype, DTYPES[dtype]
        if now is None or now.block_bytes * new.block_size > new.block_bytes * now.block_size:
            return None
        return f"the cache is {now.name}"

    return guard


def _has_fp8(scenario: Scenario) -> str | None:
    sm = lowest_sm(scenario)
    return None if sm >= 80 else f"vLLM's fp8 cache needs sm_80, this is sm_{sm}"


def _kv_dtype(dtype: str, engine: str, quality: Quality, reason: str, *guards: Guard) -> Change:
    return Change(
        id=f"kv_dtype={dtype}",
        setting="kv_dtype",
        title=f"Keep the KV cache in {dtype}",
        apply=guarded(
            _sets(kv_dtype=DTYPES[dtype]), infers, _engine(engine), _generates, _wider_than(dtype),
            *guards,
        ),
        quality=quality,
        quality_reason=reason,
    )  # fmt: skip


def _keeps_all_logits(scenario: Scenario) -> str | None:
    if inference_of(scenario).full_logits:
        return None
    return "`generate` keeps the last position's logits alone"


def _prompt_over(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        inference = inference_of(scenario)
        prompt = context_of(scenario) - (inference.max_new_tokens or 1)
        now = inference.prefill_chunk_size
        if now is not None and now <= value:
            return f"the prompt is read {now} tokens at a time"
        return None if prompt > value else f"the prompt is {max(prompt, 1)} tokens"

    return guard


def _generates_alone(scenario: Scenario) -> str | None:
    """`generate` splits the prompt of a decoder; ``model(**inputs)`` takes it whole."""
    architecture = scenario.model.architecture
    if inference_of(scenario).full_logits:
        return "it is a setting of `generate`, and this is model(**inputs)"
    if architecture is not None and architecture.encoder_layers:
        return "an encoder reads the prompt whole"
    return None


def _chunk(value: int) -> Change:
    return Change(
        id=f"prefill_chunk_size={value}",
        setting="prefill_chunk_size",
        title=f"Read the prompt {value:,} tokens at a time",
        apply=guarded(
            _sets(prefill_chunk_size=value), infers, on_transformers, _generates,
            _generates_alone, _carries_states, _in_one_tensor, _takes_masks,
            at_least("transformers", CHUNKED_SINCE), _prompt_over(value),
        ),
    )  # fmt: skip


def _has_adapter(*, quantized: bool) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        inference = inference_of(scenario)
        if inference.lora is None:
            return "there is no adapter"
        if inference.merge_adapter:
            return "the adapter is merged"
        packed = scenario.workload.loading.quantization or scenario.model.quantization
        if quantized is (packed is not None):
            return None
        return f"the weights are {'not ' if quantized else ''}quantised"

    return guard


BATCHES: Final = tuple(map(_batch, powers(1, 256)))
LARGER_BATCHES: Final = tuple(map(_larger_batch, reversed(powers(2, 256))))
CONTEXTS: Final = tuple(map(_context, powers(SMALLEST_CONTEXT, 1 << 19)))
CHUNKS: Final = tuple(map(_chunk, (2048, 512)))
LOGITS: Final = (
    Change(
        id="logits_to_keep=1",
        setting="logits_to_keep",
        title="Keep the last position's logits alone, where no other is read",
        apply=guarded(
            _sets(full_logits=False), infers, on_transformers, _generates, _keeps_all_logits
        ),
    ),
    Change(
        id="use_cache=False",
        setting="use_cache",
        title="Keep no keys and values, as nothing is generated (use_cache=False)",
        apply=guarded(
            _sets(use_cache=False), infers, on_transformers, _generates, _classifies, _caches
        ),
    ),
)
ADAPTER: Final = (
    Change(
        id="merge_adapter",
        setting="merge_adapter",
        title="Merge the adapter into the weights (merge_and_unload)",
        apply=guarded(
            _sets(merge_adapter=True), infers, on_transformers, _has_adapter(quantized=False)
        ),
    ),
    Change(
        id="merge_adapter:quantized",
        setting="merge_adapter",
        title="Merge the adapter into the quantised weights (merge_and_unload)",
        apply=guarded(
            _sets(merge_adapter=True), infers, on_transformers, _has_adapter(quantized=True)
        ),
        quality=Quality.SLIGHT,
        quality_reason="the sum is rounded to few bits again, which PEFT warns of when it merges",
    ),
)
CACHES: Final = (
    _cache("static", "Allocate the KV cache once for the whole context", _keeps_no_states),
    _cache("offloaded", "Keep the KV cache in host memory, two layers on the GPU",
           _keeps_no_states),
    _cache("quantized", "Keep the KV cache in 4 bit (pip install optimum-quanto)",
           _every_layer_caches_all, quality=Quality.SLIGHT, effort=Effort.INSTALL,
           quality_reason="4-bit keys and values: 2 bit lost little in Liu et al. 2024 (KIVI); "
           "quanto's 4 bit kept perplexity in Hugging Face's comparison of 2024"),
)  # fmt: skip
KV_DTYPES: Final = (
    _kv_dtype(
        "float8_e4m3fn", "vllm", Quality.SLIGHT,
        "8-bit keys and values: minimal loss of accuracy by vLLM's documentation of its fp8 cache",
        _has_fp8,
    ),
    _kv_dtype(
        "q8_0", "llama.cpp", Quality.SLIGHT,
        "8-bit keys and values: perplexities of every type are in llama.cpp's pull request 7412",
    ),
    _kv_dtype(
        "q4_0", "llama.cpp", Quality.REAL,
        "4-bit keys and values by row: Liu et al. 2024 (KIVI) lose accuracy where keys are not "
        "quantised by channel",
    ),
)  # fmt: skip
