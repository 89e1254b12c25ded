"""Quantised layers by tokens and type: forward, backward, time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch

from willfit.live.suite.probes.watched import Row, attempts, backward, seconds_of, watched

TOKENS: Final = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 4096)


def four_bit(device: str, tiny: bool) -> list[Row]:
    """A Linear4bit of Llama-3-8B's MLP by tokens and type: forward, backward, time."""
    return attempts(_quantized_rows(device, tiny, "nf4"))


def four_bit_rows(device: str, tiny: bool) -> list[Row]:
    """What one Linear4bit takes by rows: where the copy of its whole weight begins."""
    return attempts(_rows_of_one(device, tiny))


def _rows_of_one(device: str, tiny: bool) -> Iterator[Callable[[], Row]]:
    k, n = (64, 128) if tiny else (4096, 14336)
    for dtype in (torch.float16, torch.bfloat16):
        layer = _Layer(k, n, dtype, False, "nf4", device)
        for tokens in TOKENS[:3] if tiny else TOKENS[:-1]:
            yield partial(_peak, layer, tokens)


def _peak(layer: _Layer, tokens: int) -> Row:
    module = layer.made()
    x = torch.randn(1, tokens, layer.k, device=layer.device).to(layer.dtype)
    with torch.no_grad():
        module(x)
        _, plain = watched(partial(module, x), layer.device, listed=False)
    copy = layer.n * layer.k * x.element_size()
    return {
        "dtype": str(layer.dtype), "k": layer.k, "n": layer.n, "tokens": tokens,
        "no_grad": plain, "copy_bytes": copy, "copied": plain["peak"] >= copy,
    }  # fmt: skip


def eight_bit(device: str, tiny: bool) -> list[Row]:
    """A Linear8bitLt likewise."""
    return attempts(_quantized_rows(device, tiny, "int8"))


def _quantized_rows(device: str, tiny: bool, scheme: str) -> Iterator[Callable[[], Row]]:
    shapes = [(64, 128)] if tiny else [(4096, 14336), (14336, 4096), (4096, 1024)]
    dtypes = (
        (torch.bfloat16, torch.float16, torch.float32)
        if scheme == "nf4"
        else (torch.float16, torch.bfloat16)
    )
    for k, n in shapes:
        for dtype in dtypes:
            for nested in (False, True) if tiny or (scheme == "nf4" and n == 14336) else (False,):
                layer = _Layer(k, n, dtype, nested, scheme, device)
                for tokens in TOKENS[:3] if tiny else TOKENS:
                    yield partial(_quantized, layer, tokens)


class _Layer:
    """A quantised layer that is made when it is first asked for."""

    def __init__(
        self, k: int, n: int, dtype: torch.dtype, nested: bool, scheme: str, device: str
    ) -> None:
        self.k, self.n, self.dtype, self.nested = k, n, dtype, nested
        self.scheme, self.device = scheme, device
        self._made: Any = None

    def made(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> Any:
        bitsandbytes: Any = importlib.import_module("bitsandbytes")
        stored = torch.float16 if self.dtype == torch.float32 else self.dtype
        weight = torch.randn(self.n, self.k).mul_(0.02).to(stored)
        if self.scheme == "int8":
            layer = bitsandbytes.nn.Linear8bitLt(
                self.k, self.n, bias=False, has_fp16_weights=False, threshold=6.0
            )
            packed = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            kind = {"compress_statistics": self.nested, "quant_type": "nf4"}
            layer = bitsandbytes.nn.Linear4bit(
                self.k, self.n, bias=False, compute_dtype=self.dtype, **kind
            )
            packed = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **kind)
        layer.weight = packed
        return layer.to(self.device)


def _quantized(layer: _Layer, tokens: int) -> Row:
    module, device = layer.made(), layer.device
    x = torch.randn(1, tokens, layer.k, device=device).to(layer.dtype)
    with torch.no_grad():
        module(x)
        _, plain = watched(partial(module, x), device)
        spent = seconds_of(partial(module, x), device, 5)
    x.requires_grad_()
    out, forward = watched(partial(module, x), device)
    grad = torch.ones_like(out)
    _, back = watched(partial(backward, out, grad), device)
    return {
        "scheme": layer.scheme, "nested": layer.nested, "dtype": str(layer.dtype), "k": layer.k,
        "n": layer.n, "tokens": tokens, "no_grad": plain, "forward": forward,
        "backward": back, "seconds": spent,
    }  # fmt: skip
