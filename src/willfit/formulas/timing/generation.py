"""Generation: the pass over the prompt and one decoding step, as work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.dtypes import FLOAT32
from willfit.formulas.inference.logits import LAST_ONLY_SINCE
from willfit.formulas.inference.settings import Settings
from willfit.formulas.kv_cache import kv_cache
from willfit.formulas.timing.anatomy import Anatomy
from willfit.formulas.timing.forward import Tokens, Types, forward
from willfit.formulas.timing.products import Part
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.work import Piece, Work, total
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Inference

ADAPTER_OPERATORS = 6
"""Operators of one LoRA layer: cast, A, B, scale, sum, cast (peft 0.21.2 lora/layer.py)."""
EXPANDED_SINCE = "4.48"
"""transformers release whose SDPA path no longer copies K and V to all heads."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Work of the prompt, and of one new token of every sequence at the mean context."""

    prefill: Work
    decode: Work | None


def generation(
    anatomy: Anatomy,
    inference: Inference,
    settings: Settings,
    stack: Stack,
    rates: Rates,
    *,
    kernel: str,
) -> Generation:
    """The two passes of ``generate``; an encoder has the first alone."""
    types = _types(anatomy)
    prompt = settings.prompt_len
    batch = settings.batch
    kept = float(batch)
    if inference.full_logits or not stack.at_least("transformers", LAST_ONLY_SINCE):
        kept = float(batch * prompt)
    if not anatomy.architecture.is_decoder:
        kept = float(batch * prompt)
    if anatomy.encoder is not None:
        return _with_encoder(anatomy, settings, inference, stack, rates, kernel=kernel)
    tokens = Tokens(batch=batch, q_len=prompt, kv_len=prompt, kept=kept)
    parts = [forward(anatomy, part, tokens, types, rates, kernel=kernel) for part in _PARTS]
    prefill = total(parts)
    if not anatomy.architecture.is_decoder:
        return Generation(prefill=prefill, decode=None)
    context = prompt + (settings.new_tokens + 1) / 2
    decode = _decode(anatomy, inference, settings, stack, rates, context, kernel=kernel)
    return Generation(prefill=prefill, decode=decode)


_PARTS: Final[tuple[Part, ...]] = ("layers", "head")


def _types(anatomy: Anatomy) -> Types:
    dtype = anatomy.dtype
    return Types(product=dtype, stream=dtype, head=dtype)


def _with_encoder(
    anatomy: Anatomy,
    settings: Settings,
    inference: Inference,
    stack: Stack,
    rates: Rates,
    *,
    kernel: str,
) -> Generation:
    """The encoder reads the prompt; the decoder starts from nothing."""
    types = _types(anatomy)
    length = anatomy.architecture.encoder_len or settings.prompt_len
    read = Tokens(batch=settings.batch, q_len=length, kv_len=length, kept=0)
    prefill = forward(anatomy, "encoder", read, types, rates, kernel=kernel)
    context = (settings.new_tokens + 1) / 2
    decode = _decode(anatomy, inference, settings, stack, rates, context, kernel=kernel)
    return Generation(prefill=prefill + decode, decode=decode)


def _decode(
    anatomy: Anatomy,
    inference: Inference,
    settings: Settings,
    stack: Stack,
    rates: Rates,
    context: float,
    *,
    kernel: str,
) -> Work:
    """One token of every sequence: all weights once, the cache a few times over."""
    batch = settings.batch
    types = _types(anatomy)
    tokens = Tokens(batch=batch, q_len=1, kv_len=context, kept=batch)
    passes = total(forward(anatomy, part, tokens, types, rates, kernel=kernel) for part in _PARTS)
    traffic, host = _cache_traffic(anatomy, inference, settings, stack, context, kernel=kernel)
    return passes + Work(pieces=(Piece("memory", 0.0, 0.0, traffic),), host_bytes=host)


def _cache_traffic(
    anatomy: Anatomy,
    inference: Inference,
    settings: Settings,
    stack: Stack,
    context: float,
    *,
    kernel: str,
) -> tuple[float, float]:
    """(GPU, PCIe) bytes that keeping the cache moves, beyond attention's own reading of it.

    Dynamic: ``torch.cat`` reads and writes it all, 2×. Static: attention reads the places that
    are still empty too. Quantised: 4 bit read, the whole written in the model's type. Offloaded:
    every layer but two comes over PCIe. K and V copied to all query heads (SDPA before 4.48,
    or with a mask): 2× that size.
    """
    architecture = anatomy.architecture
    cache = kv_cache(
        architecture,
        batch_size=settings.batch,
        context_len=max(int(context), 1),
        dtype=settings.kv_dtype,
        stack=stack,
        engine="transformers",
        encoder_len=architecture.encoder_len or settings.prompt_len
        if architecture.encoder_layers
        else None,
    )
    held = float(cache.steady_bytes)
    traffic = {"dynamic": 2.0, "static": 0.0, "quantized": 1.25, "offloaded": 2.0}
    moved = held * traffic[inference.cache]
    if inference.cache == "static":
        moved += held * max(settings.context_len / context - 1.0, 0.0)
    copied = inference.padded or not stack.at_least("transformers", EXPANDED_SINCE)
    if kernel in ("efficient", "flash", "cudnn") and copied:
        moved += 2 * held * _groups(anatomy)
    host = held if inference.cache == "offloaded" else 0.0
    return moved, host


def _groups(anatomy: Anatomy) -> float:
    """Query heads per key head, 0 where K and V need no copies."""
    ratios = [a.num_heads / a.num_kv_heads for _, a in anatomy.decoder.mixers]
    largest = max(ratios, default=1.0)
    return largest if largest > 1 else 0.0


def adapter_work(params: int, modules: int, tokens: float, rates: Rates) -> Work:
    """A LoRA that was not merged: 2·P·T FLOPs in its own float32, and six operators a module."""
    flops = 2.0 * params * tokens
    piece = Piece("float32", flops, rates.product(FLOAT32), 4.0 * params)
    return Work(pieces=(piece,), operators=float(modules * ADAPTER_OPERATORS))
