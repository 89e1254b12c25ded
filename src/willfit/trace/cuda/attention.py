"""``F.scaled_dot_product_attention`` as a GPU runs it: its backend, masks and copies.

torch 2.13 native/transformers/attention.cpp (`scaled_dot_product_attention`,
`convert_boolean_attn_mask`, `pad_bias`) and cuda/sdp_utils.cpp for the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from willfit.dtypes import parse_dtype
from willfit.formulas.attention import AttentionShape, KernelChoice, choose_kernel
from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack
from willfit.scenario.workload import SdpaKernel
from willfit.trace.cuda.autocast import without_autocast
from willfit.units import round_up

_aten = torch.ops.aten
GpuOf = Callable[[torch.Tensor], Gpu | None]
"""The GPU that a tensor is on; None where none was named."""


class CudaAttention:
    """Takes the place of the function; remembers which kernels it took and why."""

    def __init__(self, gpu_of: GpuOf, stack: Stack, forced: SdpaKernel | None = None) -> None:
        """``forced``: the only kernel that ``sdpa_kernel`` allows."""
        self._gpu_of = gpu_of
        self._stack = stack
        self._forced = forced
        self.taken: dict[str, str] = {}
        """Reason by kernel, in the order of their first use."""
        self.calls: dict[str, int] = {}
        """How often each ran."""

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Shapes (B, H, S, D) as in torch."""
        query, key, value = _autocast(query, key, value)
        if attn_mask is not None and attn_mask.is_floating_point():
            (attn_mask,) = _autocast(attn_mask)
        choice = self._choose(query, key, value, attn_mask, is_causal=is_causal, gqa=enable_gqa)
        self.chose(choice.name, choice.reason)
        if choice.name == "math":
            out = without_autocast(
                _aten._scaled_dot_product_attention_math,
                query,
                key,
                value,
                attn_mask,
                dropout_p,
                is_causal,
                None,
                scale=scale,
                enable_gqa=enable_gqa,
            )
            return out[0]  # type: ignore[no-any-return]
        mask = _float_mask(attn_mask, query.dtype)
        size = value.shape[-1]
        wanted = scale if scale is not None else query.shape[-1] ** -0.5
        if choice.name == "flash":
            query, key, value = (_padded(part, 8) for part in (query, key, value))
            out = _aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, False, scale=wanted
            )
            return out[0][..., :size]  # type: ignore[no-any-return]
        needs_grad = torch.is_grad_enabled() and any(
            part.requires_grad for part in (query, key, value)
        )
        if choice.name == "cudnn":
            out = _aten._scaled_dot_product_cudnn_attention(
                query, key, value, mask, needs_grad, dropout_p, is_causal, False, scale=wanted
            )
            return out[0]  # type: ignore[no-any-return]
        out = _aten._scaled_dot_product_efficient_attention(
            query,
            key,
            value,
            _aligned(mask, query, key),
            needs_grad,
            dropout_p,
            is_causal,
            scale=wanted,
        )
        return out[0]  # type: ignore[no-any-return]

    def sm(self, tensor: torch.Tensor) -> int:
        """Compute capability of a tensor's GPU, times ten; 80 where none is named."""
        gpu = self._gpu_of(tensor)
        return gpu.sm if gpu is not None and gpu.vendor == "nvidia" else 80

    def chose(self, name: str, reason: str) -> None:
        """Note a call of a kernel."""
        self.taken.setdefault(name, reason)
        self.calls[name] = self.calls.get(name, 0) + 1

    def choose_flash(
        self,
        name: str,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        causal: bool,
    ) -> None:
        """Note a call of the flash-attn library, q (…, S, H, D); raises where it cannot run."""
        q, k, v = (part.unsqueeze(0) if part.dim() == 3 else part for part in (query, key, value))
        shape = _shape(*(part.transpose(1, 2) for part in (q, k, v)), causal=causal)
        choice = choose_kernel(
            shape, implementation=name, gpu=self._gpu_of(query), stack=self._stack
        )
        self.chose(choice.name, choice.reason)

    def _choose(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        is_causal: bool,
        gqa: bool,
    ) -> KernelChoice:
        shape = _shape(query, key, value, masked=mask is not None, causal=is_causal)
        if mask is not None and mask.requires_grad:
            shape = replace(shape, mask_trained=True)
        if not gqa:
            shape = replace(shape, broadcasts_kv=True)
        return choose_kernel(
            shape,
            implementation="sdpa",
            gpu=self._gpu_of(query),
            stack=self._stack,
            forced=self._forced,
        )


def _shape(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    masked: bool = False,
    causal: bool,
) -> AttentionShape:
    """The call's facts from q, k, v of (…, H, S, D)."""
    return AttentionShape(
        batch=query.shape[0] if query.dim() == 4 else 1,
        q_len=query.shape[-2],
        kv_len=key.shape[-2],
        num_heads=query.shape[-3],
        num_kv_heads=key.shape[-3],
        head_dim=query.shape[-1],
        v_head_dim=value.shape[-1],
        dtype=parse_dtype(str(query.dtype).removeprefix("torch.")),
        masked=masked,
        training=torch.is_grad_enabled() and query.requires_grad,
        causal=causal,
    )


def _autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """CUDA's autocast runs the whole function in the lower type (ATen/autocast_mode.h)."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(tensor.to(dtype) for tensor in tensors)


def _float_mask(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A bool mask becomes one of floats: 0 where True, −∞ elsewhere."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(
        mask,
        torch.full((), 0.0, dtype=dtype),
        torch.full((), float("-inf"), dtype=dtype),
    )


def _aligned(
    mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor
) -> torch.Tensor | None:
    """The efficient kernel reads rows of 8, 16 columns in multiples, expanded to all heads."""
    if mask is None:
        return None
    columns = key.shape[-2]
    if columns % 8:
        mask = functional.pad(mask, (0, round_up(columns, 8) - columns))[..., :columns]
    return mask.expand(query.shape[0], query.shape[1], query.shape[-2], columns)


def _padded(tensor: torch.Tensor, multiple: int) -> torch.Tensor:
    """Flash takes head sizes that are multiples of 8 and pads the others."""
    size = tensor.shape[-1]
    return (
        functional.pad(tensor, (0, round_up(size, multiple) - size)) if size % multiple else tensor
    )


def dropout(
    tensor: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,  # noqa: ARG001
) -> torch.Tensor:
    """``F.dropout`` on CUDA: one kernel, whose mask is a byte an element."""
    if not training or p == 0.0:
        return tensor
    return torch.native_dropout(tensor, p, True)[0]
