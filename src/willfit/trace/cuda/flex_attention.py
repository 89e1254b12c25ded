"""FlexAttention as compiled for a GPU: one kernel, log-sum-exps, and a block mask.

torch/nn/attention/flex_attention.py `BlockMask`; torch/_higher_order_ops/flex_attention.py
`FlexAttentionAutogradOp` for what is saved; transformers integrations/flex_attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from willfit.trace.cuda.attention import CudaAttention
from willfit.trace.cuda.kernels import replaced
from willfit.units import ceil_div

BLOCK: Final = 128
"""Queries and keys of a block (`_DEFAULT_SPARSE_BLOCK_SIZE`)."""


@contextmanager
def flex_attention(name: str | None, attention: CudaAttention) -> Iterator[None]:
    """The compiled function and its mask in place of what needs a compiler and values."""
    if name != "flex_attention":
        yield
        return
    from transformers import masking_utils
    from transformers.integrations import flex_attention as integration

    masks: Any = masking_utils.AttentionMaskInterface
    rows = [
        (masks, "_global_mapping", {**masks._global_mapping, name: block_mask}),
        (integration, "compile_friendly_flex_attention", _compiled(attention)),
    ]
    with replaced(rows):
        yield


def _compiled(attention: CudaAttention) -> Any:
    def call(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
        attention.chose("flex_attention", "asked for; what its compilation takes is not counted")
        return _Flex.apply(query, key, value)  # type: ignore[no-untyped-call, no-any-return]

    return call


class _Flex(torch.autograd.Function):
    """Saves q, k, v, the output and float32 log-sum-exps; backward has a float32 row sum."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        batch, heads, length, _ = query.shape
        if query.shape[-1] == value.shape[-1]:
            out = torch.empty_like(query)  # in the order of its strides, as inductor has it
        else:
            shape = (batch, length, heads, value.shape[-1])
            out = torch.empty(shape, dtype=query.dtype).transpose(1, 2)
        lse = torch.empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        sums = torch.empty(query.shape[:-1], dtype=torch.float32)
        made = tuple(torch.empty_like(part) for part in (query, key, value))
        del sums, grads
        return made


def block_mask(batch_size: int, q_length: int, kv_length: int, **_: Any) -> Any:
    """A causal mask by blocks: (B, 1, ⌈S_q/128⌉, ⌈S_kv/128⌉) int32 indices, twice each way."""
    from torch.nn.attention.flex_attention import BlockMask

    rows, columns = ceil_div(q_length, BLOCK), ceil_div(kv_length, BLOCK)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.zeros((batch_size, 1, *shape), dtype=torch.int32)

    return BlockMask(
        seq_lengths=(q_length, kv_length),
        kv_num_blocks=numbers(rows),
        kv_indices=numbers(rows, columns),
        full_kv_num_blocks=numbers(rows),
        full_kv_indices=numbers(rows, columns),
        q_num_blocks=numbers(columns),
        q_indices=numbers(columns, rows),
        full_q_num_blocks=numbers(columns),
        full_q_indices=numbers(columns, rows),
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=lambda *_: True,  # type: ignore[arg-type]
    )
