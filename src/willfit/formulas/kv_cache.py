"""The KV cache by layer kind, for the engine that holds it.

transformers: cache_utils.py 5.23 (`DynamicLayer`, `DynamicSlidingWindowLayer`, `StaticLayer`,
`QuantizedLayer`, `LinearAttentionCacheLayerMixin`). vLLM: paged blocks, v1 KV cache groups.
llama.cpp: llama-kv-cache.cpp, llama-kv-cache-iswa.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from willfit.dtypes import FLOAT16, FLOAT32, DType
from willfit.scenario.model import Architecture, Attention, LayerGroup, Recurrent
from willfit.scenario.stack import Stack
from willfit.scenario.workload import CacheKind, Engine
from willfit.units import ceil_div, round_up

VLLM_BLOCK: Final = 16
"""Tokens in a page of vLLM's cache (vllm/config/cache.py, CUDA default block_size)."""
LLAMA_CPP_PAD: Final = 256
"""llama.cpp pads the number of cells to this (llama-context.cpp, GGML_PAD(n_ctx, 256))."""
LLAMA_CPP_UBATCH: Final = 512
"""Default physical batch; the sliding cache holds window + one of these (llama-kv-cache-iswa)."""
CACHE_OBJECTS_SINCE: Final = "4.42"
"""transformers release whose `generate` hands Cache objects on; before, a step's new tuple of all
layers was made while the old one was still held. The release is a lead: published peaks with 4.34,
4.35 and 4.38 hold two caches, those with 4.46 one."""
QUANTIZED_RESIDUAL: Final = 128
"""Generated tokens that transformers' QuantizedCache gathers before it quantises everything again
(residual_length default): at most one fewer wait unquantised; the prompt is quantised at once."""
LATENT_SINCE: Final = "5.15"
"""First transformers release that caches MLA's latent (DeepSeek-V2/V3 and descendants); 5.14 and
before cached expanded K and V (``past_key_values.update`` of modeling_deepseek_v3.py)."""
INDEXED_LATENT_SINCE: Final = "5.18"
"""The same for sparse-attention models (modeling_deepseek_v32.py, modeling_glm_moe_dsa.py)."""
QUANTIZED_GROUP: Final = 64
"""Elements per scale and zero point of the quantised cache (q_group_size default)."""


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """Bytes of one cache on the GPU, and beside it."""

    steady_bytes: int
    """Storage once the whole context is in it."""
    prefill_bytes: int
    """Storage right after prefill: sliding layers still hold the whole prompt's tensor."""
    step_transient_bytes: int = 0
    """Extra during one decoding step: the new tensor of one layer beside the old one."""
    first_transient_bytes: int = 0
    """The same of the first step, where sliding layers still hold the whole prompt's tensors: the
    window of one of them, which come before full ones in every class that mixes them."""
    cross_layer_bytes: int = 0
    """K and V of the encoder's output as one layer projects them, which the cache then copies."""
    host_bytes: int = 0
    """Layers that wait in host memory (offloaded cache)."""
    assumptions: tuple[str, ...] = ()


def kv_cache(
    architecture: Architecture,
    *,
    batch_size: int,
    context_len: int,
    dtype: DType,
    stack: Stack,
    engine: Engine = "transformers",
    cache: CacheKind = "dynamic",
    new_tokens: int = 1,
    layers: tuple[LayerGroup, ...] | None = None,
    encoder_len: int | None = None,
    chunk: int | None = None,
) -> KvCache:
    """The cache of ``context_len`` tokens, ``new_tokens`` of them generated, a row.

    ``layers`` restricts it to one GPU's share of a split; ``chunk``: the prompt is read so many
    tokens at a time.
    """
    groups = architecture.layers if layers is None else layers
    sizes = _Sizes(
        batch_size=batch_size,
        context_len=context_len,
        prompt_len=max(context_len - new_tokens, 1),
        dtype=dtype,
        expanded_latent=not stack.at_least("transformers", LATENT_SINCE),
        expanded_indexed=not stack.at_least("transformers", INDEXED_LATENT_SINCE),
        new_tokens=new_tokens,
        encoder_len=encoder_len or 0,
        chunk=chunk,
        tuples=not stack.at_least("transformers", CACHE_OBJECTS_SINCE),
    )
    if engine == "vllm":
        return _vllm(groups, sizes)
    if engine == "llama.cpp":
        return _llama_cpp(groups, sizes)
    return _TRANSFORMERS[cache](groups, sizes)


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    batch_size: int
    context_len: int
    prompt_len: int
    dtype: DType
    expanded_latent: bool
    """Whether MLA is cached as expanded K and V (older transformers) rather than as its latent."""
    expanded_indexed: bool
    """The same of MLA with a sparse-attention indexer, which changed later."""
    encoder_len: int
    new_tokens: int = 1
    chunk: int | None = None
    """Tokens of the prompt that are read at a time; None is all."""
    tuples: bool = False
    """Whether the old cache is held while a step makes the new one (before 4.36)."""


def _elements_per_token(attention: Attention, sizes: _Sizes) -> tuple[int, int]:
    """Elements of K and of V that one token of one sequence adds to one layer.

    Ordinary: H_kv·D and H_kv·D_v. MLA in transformers 5 and in engines: the latent and the
    rotary part, once for all heads. An indexer (DSA) adds its own key.
    """
    if attention.kv_lora_rank is not None and not _expanded(attention, sizes):
        return attention.kv_lora_rank, attention.qk_rope_head_dim + attention.indexer_dim
    return (
        attention.num_kv_heads * attention.head_dim,
        attention.num_kv_heads * attention.v_head_dim + attention.indexer_dim,
    )


def _expanded(attention: Attention, sizes: _Sizes) -> bool:
    return sizes.expanded_indexed if attention.indexer_dim else sizes.expanded_latent


def _held(attention: Attention, tokens: int) -> int:
    """Tokens that a layer's storage holds in decoding: a sliding layer its window.

    After a step the kept window − 1 tokens are a view of a tensor of ``window`` tokens.
    """
    return tokens if attention.window is None else min(tokens, attention.window)


def _after_prefill(attention: Attention, sizes: _Sizes) -> int:
    """Tokens that a layer's storage holds after the prompt: all of it, or W − 1 and a chunk."""
    if attention.window is None or sizes.chunk is None:
        return sizes.prompt_len
    return min(sizes.prompt_len, attention.window - 1 + sizes.chunk)


def _layer_bytes(attention: Attention, sizes: _Sizes, tokens: int) -> int:
    key, value = _elements_per_token(attention, sizes)
    own = sizes.dtype.num_bytes(sizes.batch_size * tokens * (key + value))
    return own + _cross_bytes(attention, sizes)


def _cross_bytes(attention: Attention, sizes: _Sizes) -> int:
    """K and V of the encoder's output, cached once by each cross-attending layer."""
    if not attention.cross:
        return 0
    per_token = attention.num_kv_heads * (attention.head_dim + attention.v_head_dim)
    return sizes.dtype.num_bytes(sizes.batch_size * sizes.encoder_len * per_token)


def state_bytes(recurrent: Recurrent, batch_size: int, dtype: DType) -> int:
    """States of a linear-attention layer: convolution in the model's type, state in its own."""
    state_dtype = recurrent.state_dtype or dtype
    return batch_size * (
        dtype.num_bytes(recurrent.conv_elements) + state_dtype.num_bytes(recurrent.state_elements)
    )


def _image_layers(groups: Iterable[LayerGroup], sizes: _Sizes) -> int:
    """K and V of the image in layers that attend to nothing else (Mllama)."""
    return sum(
        group.count * _cross_bytes(group.attention, sizes)
        for group in groups
        if group.shares_cache and group.attention is not None
    )


def _states(groups: tuple[LayerGroup, ...], sizes: _Sizes) -> int:
    """What does not grow with the context: recurrent states, and the image's K and V."""
    return _image_layers(groups, sizes) + sum(
        group.count * state_bytes(group.recurrent, sizes.batch_size, sizes.dtype)
        for group in groups
        if group.recurrent is not None
    )


def _caching(groups: Iterable[LayerGroup]) -> list[tuple[int, Attention]]:
    return [
        (group.count, group.attention)
        for group in groups
        if group.attention is not None and not group.shares_cache
    ]


def _dynamic(groups: tuple[LayerGroup, ...], sizes: _Sizes) -> KvCache:
    """Σ layers 2·B·H_kv·D·S·e; sliding layers min(S, W). `torch.cat` makes each step a new tensor.

    The step's extra is one tensor of the largest layer (K, then V), not the cache again.
    """
    caching = _caching(groups)
    states = _states(groups, sizes)
    steady = sum(n * _layer_bytes(a, sizes, _held(a, sizes.context_len)) for n, a in caching)
    prefill = sum(n * _layer_bytes(a, sizes, _after_prefill(a, sizes)) for n, a in caching)
    return KvCache(
        steady_bytes=steady + states,
        prefill_bytes=prefill + states,
        step_transient_bytes=steady
        if sizes.tuples
        else max((_one_tensor(a, sizes) for _, a in caching), default=0),
        first_transient_bytes=max(
            (_one_tensor(a, sizes) for _, a in caching if a.window is not None), default=0
        ),
        cross_layer_bytes=max((_cross_bytes(a, sizes) for _, a in caching), default=0),
        assumptions=("KV cache as transformers' DynamicCache holds it",),
    )


def _one_tensor(attention: Attention, sizes: _Sizes) -> int:
    """The larger of K and V; a sliding layer makes both before it lets go of the old ones.

    cache_utils.py `DynamicSlidingWindowLayer.update`, `DynamicLayer.update`.
    """
    key, value = _elements_per_token(attention, sizes)
    tokens = _held(attention, sizes.context_len)
    made = max(key, value) if attention.window is None else key + value
    transient = sizes.dtype.num_bytes(sizes.batch_size * tokens * made)
    if attention.kv_lora_rank is not None and not _expanded(attention, sizes):
        heads = attention.num_heads * (attention.head_dim + attention.v_head_dim)
        transient += sizes.dtype.num_bytes(sizes.batch_size * tokens * heads)
    return transient


def _static(groups: tuple[LayerGroup, ...], sizes: _Sizes) -> KvCache:
    """All of it from the first token on: 2·B·H_kv·D·max_len·e a layer, sliding min(W, max_len)."""
    total = sum(
        n * _layer_bytes(a, sizes, _held(a, sizes.context_len)) for n, a in _caching(groups)
    ) + _states(groups, sizes)
    return KvCache(
        steady_bytes=total,
        prefill_bytes=total,
        assumptions=("KV cache static: allocated for the whole context at the first token",),
    )


def _quantized(groups: tuple[LayerGroup, ...], sizes: _Sizes) -> KvCache:
    """4-bit groups of 64 with two 16-bit scalars, up to 127 generated tokens as they are.

    Every step rebuilds one whole layer in the model's type (QuantizedLayer.update). transformers
    refuses this cache where any layer is not full attention: the result then says so.
    """
    caching = _caching(groups)
    total = sum(n * _quantized_layer(a, sizes) for n, a in caching) + _states(groups, sizes)
    whole = max((_layer_bytes(a, sizes, sizes.context_len) for _, a in caching), default=0)
    prefill = sum(n * _quantized_layer(a, sizes) for n, a in caching)
    return KvCache(
        steady_bytes=total,
        prefill_bytes=prefill + _states(groups, sizes) + whole,
        step_transient_bytes=2 * whole,
        assumptions=(
            "KV cache quantised to 4 bit in groups of 64, up to 127 new tokens unquantised",
            *(_REFUSED if _states_or_windows(groups) else ()),
        ),
    )


_REFUSED: Final = (
    "transformers refuses a quantised cache for a model with sliding or linear-attention layers: "
    "the figure is what it would take",
)


def _states_or_windows(groups: Iterable[LayerGroup]) -> bool:
    return any(
        group.recurrent is not None or group.attention is None or group.attention.window is not None
        for group in groups
    )


def _quantized_layer(attention: Attention, sizes: _Sizes) -> int:
    tokens = _held(attention, sizes.context_len)
    plain = min(tokens, sizes.new_tokens, QUANTIZED_RESIDUAL - 1)
    key, value = _elements_per_token(attention, sizes)
    elements = sizes.batch_size * (tokens - plain) * (key + value)
    packed = ceil_div(elements, 2) + ceil_div(elements, QUANTIZED_GROUP) * 2 * 2
    return packed + _layer_bytes(attention, sizes, plain)


def _offloaded(groups: tuple[LayerGroup, ...], sizes: _Sizes) -> KvCache:
    """Two layers on the GPU, the one in use and the one prefetched; the rest in host memory.

    Prefill has nothing to fetch yet: each layer goes to the host once its attention is done.
    """
    caching = _caching(groups)
    layers = sorted(
        (_layer_bytes(a, sizes, _held(a, sizes.context_len)) for n, a in caching for _ in range(n)),
        reverse=True,
    )
    states = _states(groups, sizes)
    return KvCache(
        steady_bytes=sum(layers[:2]) + states,
        prefill_bytes=sum(layers[:1]) + states,
        step_transient_bytes=max((_one_tensor(a, sizes) for _, a in caching), default=0),
        host_bytes=sum(layers[2:]),
        assumptions=("KV cache offloaded: two layers on the GPU, the rest in host memory",),
    )


_TRANSFORMERS: Final[dict[CacheKind, Callable[[tuple[LayerGroup, ...], _Sizes], KvCache]]] = {
    "dynamic": _dynamic,
    "static": _static,
    "quantized": _quantized,
    "offloaded": _offloaded,
}


def _vllm(groups: tuple[LayerGroup, ...], sizes: _Sizes) -> KvCache:
    """Whole pages of 16 tokens; a sliding layer keeps its window and one page more (v1 manager).

    It is what these sequences need, not what vLLM takes: vLLM takes all of
    ``gpu_memory_utilization`` for pages.
    """
    engine = _with_latent(sizes)
    total = sum(
        n * _layer_bytes(a, engine, _paged(a, sizes.context_len)) for n, a in _caching(groups)
    )
    total += _states(groups, engine)
    note = "KV cache as vLLM pages it (blocks of 16 tokens), for these sequences alone"
    return KvCache(steady_bytes=total, prefill_bytes=total, assumptions=(note,))


def _paged(attention: Attention, tokens: int) -> int:
    if attention.window is not None:
        tokens = min(tokens, attention.window - 1 + VLLM_BLOCK)
    return round_up(tokens, VLLM_BLOCK)


def _with_latent(sizes: _Sizes) -> _Sizes:
    from dataclasses import replace

    return replace(sizes, expanded_latent=False, expanded_indexed=False)


def _llama_cpp(groups: tuple[LayerGroup, ...], sizes: _Sizes) -> KvCache:
    """Cells padded to 256; sliding layers hold window + physical batch; states are float32."""
    from dataclasses import replace

    engine = replace(_with_latent(sizes), dtype=_llama_cpp_dtype(sizes.dtype))
    total = sum(
        n * _layer_bytes(a, engine, _cells(a, sizes.context_len)) for n, a in _caching(groups)
    )
    total += _states(groups, replace(engine, dtype=FLOAT32))
    note = f"KV cache as llama.cpp allocates it ({engine.dtype.name}, cells padded to 256)"
    return KvCache(steady_bytes=total, prefill_bytes=total, assumptions=(note,))


def _llama_cpp_dtype(dtype: DType) -> DType:
    """llama.cpp's cache is float16 unless ``--cache-type-k/-v`` say otherwise."""
    return FLOAT16 if dtype.name in ("bfloat16", "float32") else dtype


def _cells(attention: Attention, tokens: int) -> int:
    cells = round_up(tokens, LLAMA_CPP_PAD)
    if attention.window is None:
        return cells
    return min(cells, round_up(attention.window + LLAMA_CPP_UBATCH, LLAMA_CPP_PAD))
