"""The flash-attn library, for transformers' own code to call: outputs, saved and hidden tensors.

flash_attn_interface.py `FlashAttnFunc`, csrc/flash_attn/flash_api.cpp `mha_fwd`, `mha_bwd`,
`mha_varlen_bwd`; of FlashAttention-3 hopper/flash_attn_interface.py and hopper/flash_api.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.nn import functional

from willfit.errors import InputError, UnsupportedError
from willfit.trace.cuda.attention import CudaAttention
from willfit.trace.cuda.flash_by_name import imported_by_name, is_imported_by_name
from willfit.trace.cuda.kernels import replaced
from willfit.units import ceil_div, round_up

_aten = torch.ops.aten
LARGEST_HEAD: Final = 256
"""Head size that both versions refuse to pass (flash_api.cpp)."""
_LOADED: Final = (
    "_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn",
    "_unpad_fn", "_process_flash_kwargs_fn", "_process_with_kvcache_kwargs_fn",
)  # fmt: skip
"""What transformers keeps of the library once it is imported."""


@contextmanager
def flash_library(name: str | None, attention: CudaAttention | None) -> Iterator[None]:
    """For the duration transformers finds the library that ``name`` asks for, if it is one.

    ``attention`` chooses and counts; None where models are built and nothing is called.
    """
    if name is None or not name.startswith("flash_attention_"):
        yield
        return
    if name == "flash_attention_4":
        raise UnsupportedError(
            "the trace does not know what flash_attention_4 allocates: use flash_attention_2, or "
            "leave --trace out"
        )
    if is_imported_by_name():
        if name != "flash_attention_2":
            raise UnsupportedError(f"this release of transformers does not know {name}")
        kernel = _Kernel(name, attention)
        with replaced(imported_by_name(_dense_2(kernel), _varlen_2(kernel))):
            yield
        return
    from transformers import masking_utils
    from transformers import modeling_flash_attention_utils as utils

    module: Any = utils
    version = int(name[-1])
    checks = dict(module.FLASH_ATTENTION_COMPATIBILITY_MATRIX)
    checks[version] = {
        **checks[version],
        "general_availability_check": _yes,
        "pkg_availability_check": _yes,
        "supported_devices": ((_yes, "cuda"),),
    }
    masks: Any = masking_utils.AttentionMaskInterface
    functions = _functions(name, attention)
    rows: list[tuple[Any, str, Any]] = [
        *(
            (owner, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", checks)
            for owner in (module, _modeling())
        ),
        *((module, kept, None) for kept in _LOADED),
        (module, "_lazy_imports", lambda *_, **__: functions),
        (module, "_get_unpad_data", _unpad_data),
        (module, "_is_packed_sequence", lambda *_: False),
        (masks, "_global_mapping", {**masks._global_mapping, name: _mask}),
    ]
    with replaced(rows):
        module.lazy_import_flash_attention(name)
        yield


def _modeling() -> Any:
    from transformers import modeling_utils

    return modeling_utils


def _yes(*_: Any, **__: Any) -> bool:
    return True


def _mask(
    *_: Any, kv_length: int, attention_mask: torch.Tensor | None = None, **__: Any
) -> torch.Tensor | None:
    """The padding mask where there is one: a padded batch has padding somewhere."""
    return None if attention_mask is None else attention_mask[:, -kv_length:]


def _unpad_data(attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Indices of the tokens to keep, here all of them: the most that a padded batch can hold."""
    batch, length = attention_mask.shape
    lengths = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = torch.empty(batch * length, dtype=torch.int64)
    ends = functional.pad(torch.cumsum(lengths, dim=0, dtype=torch.int32), (1, 0))
    return indices, ends, length


def _functions(name: str, attention: CudaAttention | None) -> tuple[Any, ...]:
    """Dense, varlen, with a paged cache (not called), pad and unpad, as transformers imports."""
    from transformers import modeling_flash_attention_utils as utils

    module: Any = utils
    kernel = _Kernel(name, attention)
    pair = (_dense_2, _varlen_2) if name == "flash_attention_2" else (_dense_3, _varlen_3)
    dense, varlen = (make(kernel) for make in pair)
    return dense, varlen, None, module._pad_input, module._unpad_input


class _Kernel:
    """One version of the library on one GPU."""

    def __init__(self, name: str, attention: CudaAttention | None) -> None:
        self.name = name
        self._attention = attention

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        ends: tuple[torch.Tensor, int] | None,
        *,
        causal: bool,
        scale: float | None,
        window: tuple[int, int],
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """Output (B, S, H, D), or (tokens, H, D) where ``ends`` tells sequences apart."""
        assert self._attention is not None
        size = q.shape[-1]
        if size > LARGEST_HEAD:
            raise InputError(
                f"{self.name} takes heads of up to {LARGEST_HEAD} and the model's have {size}: "
                "use sdpa"
            )
        self._attention.choose_flash(self.name, q, k, v, causal=causal)
        if size % 8:
            q, k, v = (functional.pad(part, (0, 8 - size % 8)) for part in (q, k, v))
        out: torch.Tensor = _Flash.apply(  # type: ignore[no-untyped-call]
            q, k, v, ends, (dropout, causal, scale if scale is not None else size**-0.5, window),
            self.workspaces,
        )  # fmt: skip
        return out[..., :size]

    def workspaces(
        self, q: torch.Tensor, k: torch.Tensor, sequences: int | None, *, causal: bool
    ) -> list[torch.Tensor]:
        """What the backward kernel allocates besides the gradients."""
        if self.name == "flash_attention_2":
            return _backward_2(q, k, sequences)
        sm = self._attention.sm(q) if self._attention is not None else 90
        return _backward_3(q, k, sequences, causal=causal, sm=sm)


class _Flash(torch.autograd.Function):
    """The library's autograd function: saves q, k, v, the output, log-sum-exps and a seed."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        ends: tuple[torch.Tensor, int] | None,
        how: tuple[float, bool, float, tuple[int, int]],
        workspaces: Callable[..., list[torch.Tensor]],
    ) -> torch.Tensor:
        dropout, causal, scale, window = how
        sums, longest = ends if ends is not None else (None, q.shape[1])
        out, lse, seed, *_ = _aten._flash_attention_forward(
            q, k, v, sums, sums, longest, k.shape[1] if ends is None else longest, dropout, causal,
            False, scale=scale, window_size_left=window[0], window_size_right=window[1],
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse, seed)
        ctx.sequences = None if sums is None else sums.shape[0] - 1
        ctx.causal, ctx.workspaces = causal, workspaces
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, *_ = ctx.saved_tensors
        made = [torch.empty_like(part) for part in (q, k, v)]
        held = ctx.workspaces(q, k, ctx.sequences, causal=ctx.causal)
        del held, grads
        return (*made, None, None, None)


def _backward_2(q: torch.Tensor, k: torch.Tensor, sequences: int | None) -> list[torch.Tensor]:
    """Float32 dq of D↑32 (↑64 from 128 on) and softmax-d, rows padded; dk, dv of all heads.

    Rows: B·S↑128, or the tokens and 128 a sequence where lengths vary.
    """
    heads, size = q.shape[-2:]
    rounded = round_up(size, 32 if size <= 128 else 64)
    rows = q.shape[0] + 128 * sequences if sequences else q.shape[0] * round_up(q.shape[1], 128)
    held = [torch.empty((rows, heads, width), dtype=torch.float32) for width in (rounded, 1)]
    if k.shape[-2] != heads:
        held += [torch.empty((*k.shape[:-2], heads, size), dtype=q.dtype) for _ in "kv"]
    return held


def _backward_3(
    q: torch.Tensor, k: torch.Tensor, sequences: int | None, *, causal: bool, sm: int
) -> list[torch.Tensor]:
    """Float32 dq, softmax-d and log-sum-exps of rows padded to blocks; dk, dv where heads group.

    Rows: B·S↑block, or (tokens + B·block)↑block where lengths vary.
    """
    heads, size = q.shape[-2:]
    rounded = next(width for width in (64, 96, 128, 192, 256) if size <= width)
    q_block, k_block = _blocks(rounded, causal=causal, sm=sm)

    def rows(part: torch.Tensor, block: int) -> int:
        if sequences:
            return round_up(part.shape[0] + sequences * block, block)
        return part.shape[0] * round_up(part.shape[1], block)

    held = [
        torch.empty((rows(q, q_block), heads, width), dtype=torch.float32)
        for width in (1, 1, rounded)
    ]
    if k.shape[-2] != heads:
        shape = (rows(k, k_block), k.shape[-2], rounded)
        held += [torch.zeros(shape, dtype=torch.float32) for _ in "kv"]
    longest = q.shape[0] if sequences else q.shape[1]
    counts = (ceil_div(longest, q_block), sequences or q.shape[0], heads)
    return [*held, torch.empty(counts, dtype=torch.int32)]


def _blocks(size: int, *, causal: bool, sm: int) -> tuple[int, int]:
    """Rows of queries and of keys that the backward kernel takes at once (flash_api.cpp)."""
    if sm in (86, 89):
        k_block = {64: 128, 96: 128, 128: 96, 192: 64, 256: 64}[size]
        return (64 if size <= 192 else 32), k_block
    if sm < 90:
        return (128 if size <= 64 else 64), {192: 80, 256: 64}.get(size, 128)
    q_block = {64: 128, 96: 64, 128: 64 if causal else 80}.get(size, 64)
    return q_block, {192: 96, 256: 80}.get(size, 128)


def _dense_2(kernel: _Kernel) -> Callable[..., torch.Tensor]:
    def flash_attn_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,  # noqa: ARG001 -- changes scores inside the kernel alone
        deterministic: bool = False,  # noqa: ARG001
    ) -> torch.Tensor:
        return kernel(
            q, k, v, None, causal=causal, scale=softmax_scale, window=window_size,
            dropout=dropout_p,
        )  # fmt: skip

    return flash_attn_func


def _varlen_2(kernel: _Kernel) -> Callable[..., torch.Tensor]:
    def flash_attn_varlen_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,  # noqa: ARG001
        max_seqlen_q: int,
        max_seqlen_k: int,  # noqa: ARG001
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,  # noqa: ARG001
        deterministic: bool = False,  # noqa: ARG001
    ) -> torch.Tensor:
        return kernel(
            q, k, v, (cu_seqlens_q, max_seqlen_q), causal=causal, scale=softmax_scale,
            window=window_size, dropout=dropout_p,
        )  # fmt: skip

    return flash_attn_varlen_func


def _dense_3(kernel: _Kernel) -> Callable[..., torch.Tensor]:
    def flash_attn_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,  # noqa: ARG001
        deterministic: bool = False,  # noqa: ARG001
    ) -> torch.Tensor:
        return kernel(q, k, v, None, causal=causal, scale=softmax_scale, window=window_size)

    return flash_attn_func


def _varlen_3(kernel: _Kernel) -> Callable[..., torch.Tensor]:
    def flash_attn_varlen_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,  # noqa: ARG001
        max_seqlen_q: int,
        max_seqlen_k: int,  # noqa: ARG001
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,  # noqa: ARG001
        deterministic: bool = False,  # noqa: ARG001
    ) -> torch.Tensor:
        ends = (cu_seqlens_q, max_seqlen_q)
        return kernel(q, k, v, ends, causal=causal, scale=softmax_scale, window=window_size)

    return flash_attn_varlen_func
