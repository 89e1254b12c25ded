"""transformers' own caches for ``generate``: dynamic, static, quantised, offloaded."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import torch

from willfit.dtypes import DType
from willfit.errors import UnsupportedError
from willfit.formulas.inference.phases import COMPILED
from willfit.formulas.inference.settings import Settings
from willfit.scenario.workload import CacheKind, Inference
from willfit.trace.cuda.kernels import replaced

BACKENDS: Final = {"quanto": "optimum.quanto", "hqq": "hqq"}
"""Module of each library that transformers quantises a cache with, its default first."""
HOST: Final = "meta"
"""Device that stands for host memory; the (fake) CPU stands for the GPU."""


Mark = Callable[[Iterable[Any]], None]
"""Notes that these tensors are a cache's."""


def make_cache(model: Any, inference: Inference, settings: Settings, mark: Mark) -> Any | None:
    """The cache that ``generate`` would hand to the model; None where the model makes its own.

    To be called inside of the fake mode. ``mark`` is told of what a layer holds only for a while.
    Raises `UnsupportedError` where transformers has no such cache, or lacks the library behind it.
    """
    kind, backend = _kind(inference.cache, settings)
    if kind == "dynamic":
        return None
    config = model.config.get_text_config(decoder=True)
    if not getattr(model, "_supports_default_dynamic_cache", lambda: True)():
        raise UnsupportedError(f"{type(model).__name__} has a cache of its own, not a {kind} one")
    encoder_decoder = model.config.is_encoder_decoder
    try:
        if kind == "static":
            cache = _static(config, settings, encoder_decoder=encoder_decoder)
        elif kind == "quantized":
            cache = _quantized(config, backend, encoder_decoder=encoder_decoder)
        else:
            cache = _offloaded(config, mark)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"transformers has no {kind} cache for {type(model).__name__}: {str(error)[:200]}"
        ) from error
    return _both(cache, config) if encoder_decoder else cache


def cache_notes(inference: Inference, settings: Settings) -> tuple[str, ...]:
    """What a cache of this kind leaves open."""
    kind, backend = _kind(inference.cache, settings)
    if kind == "static":
        return (COMPILED,)
    if kind == "quantized":
        return (f"KV cache quantised by {backend}; temporaries inside of its kernels not followed",)
    if kind == "offloaded":
        return ("offloaded cache: its prefetch stream's segments counted with the others",)
    return ()


def cache_tensors(held: Any) -> Iterator[torch.Tensor]:
    """Every tensor of a cache, those inside of quantised ones and of both sides of a pair too."""
    if isinstance(held, torch.Tensor):
        inner = getattr(held, "__tensor_flatten__", None)
        if inner is None or type(held).__name__ == "FakeTensor":
            yield held
            return
        held = [getattr(held, name) for name in inner()[0]]
    elif isinstance(held, dict):
        held = list(held.values())
    elif not isinstance(held, (list, tuple)):
        held = [getattr(held, part, None) for part in _PARTS] if held is not None else []
        held = [part for part in held if part is not None]
    for part in held:
        layer = hasattr(part, "update") and hasattr(part, "__dict__") and not _is_cache(part)
        yield from cache_tensors(list(vars(part).values()) if layer else part)


_PARTS: Final = (
    "self_attention_cache", "cross_attention_cache", "layers",
    "conv_states", "recurrent_states",
    "key_cache", "value_cache", "ssm_states",  # as releases before 4.56 have them
)  # fmt: skip


def _is_cache(part: Any) -> bool:
    return hasattr(part, "layers") or hasattr(part, "self_attention_cache")


def _kind(asked: CacheKind, settings: Settings) -> tuple[CacheKind, str]:
    """The cache, and the library that quantises it; a type of the cache's own is fp8's."""
    if settings.kv_dtype != settings.dtype:
        return "quantized", _fp8(settings.kv_dtype, asked)
    return asked, _backend() if asked == "quantized" else ""


def _fp8(dtype: DType, asked: CacheKind) -> str:
    if asked == "dynamic" and dtype.name.startswith("float8_e4m3"):
        return "fp8"
    raise UnsupportedError(
        f"transformers holds no {asked} cache in {dtype.name}: leave --kv-dtype out (its cache has "
        "the model's type), or use --kv-dtype float8_e4m3fn or --cache quantized"
    )


def _backend() -> str:
    for name, module in BACKENDS.items():
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            return name
    raise UnsupportedError(
        "transformers quantises a cache with optimum-quanto or hqq, and neither is installed here: "
        "pip install optimum-quanto, or leave --trace out for the formulas' estimate"
    )


def _caches() -> Any:
    from transformers import cache_utils

    return cache_utils


def _static(config: Any, settings: Settings, *, encoder_decoder: bool) -> Any:
    """Room for the whole context; of a decoder that reads an encoder, for what it writes."""
    tokens = settings.new_tokens if encoder_decoder else settings.context_len
    return _caches().StaticCache(config=config, max_cache_len=tokens)


def _quantized(config: Any, backend: str, *, encoder_decoder: bool) -> Any:
    if encoder_decoder:
        raise ValueError("it is for decoders alone")
    cache = _caches().QuantizedCache(backend=backend, config=config)
    if backend == "quanto":
        for layer in cache.layers:
            layer._quantize = _packing(layer._quantize)
    return cache


def _packing(quantize: Callable[..., Any]) -> Callable[..., Any]:
    """Quanto packs plain tensors; here it packs fake ones too (tensor/weights/qbits.py)."""
    packed = importlib.import_module("optimum.quanto.tensor.packed").PackedTensor
    bits = importlib.import_module("optimum.quanto.tensor.weights.qbits").WeightQBitsTensor
    made = bits.__init__

    def init(self: Any, qtype: Any, *args: Any, **kwargs: Any) -> None:
        axis, group, size, stride, data, *rest = args
        if type(data) is not packed:
            data = packed.pack(data, qtype.bits)
        made(self, qtype, axis, group, size, stride, data, *rest, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        with replaced([(bits, "__init__", init)]):
            return quantize(*args, **kwargs)

    return call


def _both(cache: Any, config: Any) -> Any:
    return _caches().EncoderDecoderCache(cache, _caches().DynamicCache(config=config))


def _on_gpu(part: Any) -> bool:
    return isinstance(part, torch.Tensor) and part.device.type != HOST


class _Stream(SimpleNamespace):
    """A stream of a GPU that is not there: what waits for it has been done."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def wait_stream(self, _: Any) -> None:
        """Nothing to wait for."""


def _offloaded(config: Any, mark: Mark) -> Any:
    """Transformers' dynamic cache with ``offloading``, between the fake GPU and `HOST`."""
    cache = _caches().DynamicCache(config=config)
    cache.offloading = True
    cache.only_non_sliding = False  # as DynamicCache has it
    cache.prefetch_stream = _Stream()
    moved = cache.update

    def update(*args: Any, **kwargs: Any) -> Any:
        with replaced([(torch.cuda, "default_stream", lambda *_: _Stream())]):
            held = moved(*args, **kwargs)
        mark(held)
        for layer in cache.layers:
            mark(part for part in (layer.keys, layer.values) if _on_gpu(part))
        return held

    def offload(layer_idx: int, *_: Any) -> None:
        layer = cache.layers[layer_idx]
        for name in ("keys", "values", "indexer_keys"):
            if isinstance(getattr(layer, name, None), torch.Tensor):
                setattr(layer, name, getattr(layer, name).to(HOST))

    cache.update, cache.offload = update, offload
    return cache
