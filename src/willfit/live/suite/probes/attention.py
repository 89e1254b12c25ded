"""SDPA by kernel, type, shape and mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch

from willfit.live.suite.probes.watched import Row, attempts, backward, seconds_of, watched

ATTENTION: Final = (
    # batch, query heads, kv heads, head size, tokens of q, of kv
    (1, 32, 8, 128, 1024, 1024),
    (1, 32, 8, 128, 4096, 4096),
    (2, 32, 8, 128, 1001, 1001),
    (2, 32, 32, 128, 1024, 1024),
    (2, 32, 32, 128, 1001, 1001),
    (1, 16, 16, 64, 2048, 2048),
    (1, 8, 4, 256, 1024, 1024),
    (8, 32, 8, 128, 1, 4097),
)


def attention(device: str, tiny: bool) -> list[Row]:
    """SDPA by kernel, type, shape and mask: forward without and with grad, and backward."""
    return attempts(_attention_rows(device, tiny))


def _attention_rows(device: str, tiny: bool) -> Iterator[Callable[[], Row]]:
    from torch.nn.attention import SDPBackend

    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH, "default": None,
    }  # fmt: skip
    for shape in ATTENTION:
        for name, kernel in kernels.items():
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                if dtype != torch.bfloat16 and name in ("flash", "cudnn"):
                    continue
                if dtype == torch.float32 and shape[4] > 2048:
                    continue
                for mask in (None, "bool"):
                    yield partial(_attend, shape, name, kernel, dtype, mask, device, tiny)


def _attend(
    shape: tuple[int, ...],
    name: str,
    kernel: Any,
    dtype: torch.dtype,
    mask: str | None,
    device: str,
    tiny: bool,
) -> Row:
    from contextlib import nullcontext

    from torch.nn.attention import sdpa_kernel

    batch, heads, kv_heads, size, queries, keys = shape
    if tiny:
        size, queries, keys = 16, min(queries, 17), min(keys, 17)
    row: Row = {
        "kernel": name, "dtype": str(dtype), "mask": mask, "batch": batch, "heads": heads,
        "kv_heads": kv_heads, "head_dim": size, "queries": queries, "keys": keys,
    }  # fmt: skip
    q = torch.randn(batch, queries, heads, size, device=device).to(dtype).transpose(1, 2)
    k, v = (
        torch.randn(batch, keys, kv_heads, size, device=device).to(dtype).transpose(1, 2)
        for _ in "kv"
    )
    bias = None
    if mask is not None:
        bias = torch.ones(batch, 1, queries, keys, dtype=torch.bool, device=device).tril(
            keys - queries
        )
        bias[-1, :, :, : keys // 2] = False
        bias[..., keys - 1] |= ~bias.any(-1)
        if heads != kv_heads:  # as transformers does where there is a mask
            k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
            row["repeated"] = True
    gqa = heads != k.shape[1]

    def call() -> torch.Tensor:
        with sdpa_kernel([kernel]) if kernel is not None else nullcontext():
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, is_causal=bias is None and queries == keys, enable_gqa=gqa
            )

    try:
        with torch.no_grad():
            call()
            _, row["no_grad"] = watched(call, device)
            if queries * keys <= 4096 * 4096:
                row["seconds"] = seconds_of(call, device, 3)
        if queries == keys:
            q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
            out, row["forward"] = watched(call, device)
            grad = torch.ones_like(out)
            _, row["backward"] = watched(partial(backward, out, grad), device)
    except Exception as error:
        row["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return row
