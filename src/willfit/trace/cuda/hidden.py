"""What CUDA kernels allocate inside, where no dispatcher sees it: one row an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from willfit.formulas.attention import SOFTMAX_REUSED_SINCE
from willfit.scenario.stack import Stack
from willfit.units import round_up

_aten = torch.ops.aten


class Call(NamedTuple):
    """An operator's call: its arguments and what it returned."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any


Hidden = Callable[[Call], Iterable[int]]
"""Bytes that an operator's CUDA kernel allocates besides its outputs."""
Inside = Callable[[Call], bool]
"""Whether an operator's call makes a product by cuBLAS inside."""


_REUSED = Stack(versions={"torch": torch.__version__}).at_least("torch", SOFTMAX_REUSED_SINCE)


def _safe_softmax(call: Call) -> Iterable[int]:
    """The places that are all masked, a byte each, and in older releases the softmax itself.

    The output is ``where`` of both, since torch 2.11 (measured; it may be earlier) in place.
    """
    yield call.out.numel()
    if not _REUSED:
        yield call.out.numel() * call.out.element_size()


def _softmax_backward(call: Call) -> Iterable[int]:
    """Grad · output, in the wider type of both.

    native/cuda/SoftMax.cu `softmax_backward_cuda_out`; measured on an H200: 4 bytes a score beside
    the gradient, the softmax and the result.
    """
    grad, output = call.args[:2]
    yield grad.numel() * torch.result_type(grad, output).itemsize


def _flash_backward(call: Call) -> Iterable[int]:
    """Float32 dq of rows padded to 128 and columns to 32, softmax-d, and dk, dv of all heads.

    flash_attn/flash_api.cpp `mha_bwd`: 4·B·H·S↑128·D↑32, 4·B·H·S↑128, and with grouped heads
    2·B·S_kv·H·D·e.
    """
    query, key = call.args[1], call.args[2]
    batch, heads, length, size = query.shape
    rows = batch * heads * round_up(length, 128)
    yield 4 * rows * round_up(size, 32)
    yield 4 * rows
    if key.shape[1] != heads:
        expanded = batch * heads * key.shape[2] * size * query.element_size()
        yield expanded
        yield expanded


def _cudnn_backward(call: Call) -> Iterable[int]:
    """Float32 dq and softmax-d, 4·B·H·S·(D + 1), and dk, dv of all heads where they are grouped.

    Measured on an H200 (torch 2.11, cuDNN 9.19) to some bytes: head sizes 64, 128 and 256, 1,001 to
    4,096 tokens, with and without a mask.
    """
    query, key = call.args[1], call.args[2]
    batch, heads, length, size = query.shape
    yield 4 * batch * heads * length * (size + 1)
    if key.shape[1] != heads:
        yield 2 * batch * heads * key.shape[2] * size * query.element_size()


def _efficient_forward(call: Call) -> Iterable[int]:
    """The output in float32 where a head of V has more than 128 columns; measured."""
    query, value = call.args[0], call.args[2]
    if value.shape[-1] > 128 and query.element_size() < 4:
        yield 4 * query.shape[0] * query.shape[1] * query.shape[2] * value.shape[-1]


def _efficient_backward(call: Call) -> Iterable[int]:
    """Softmax-d 4·B·H·S and the accumulators: dq 4·B·H·S↑128·D, for D > 128 those of k and v too.

    Measured on an H200 (torch 2.11) to 24 KiB; float32 inputs take as much for out · grad before.
    """
    query, key = call.args[1], call.args[2]
    batch, heads, length, size = query.shape
    yield 4 * batch * heads * length
    yield 4 * batch * heads * size * round_up(length, 128)
    if size > 128 and query.element_size() < 4:
        yield 2 * 4 * batch * heads * size * round_up(key.shape[2], 128)


def _add_in_place(call: Call) -> Iterable[int]:
    """A dense tensor and a sparse one of another type: both sides' sum type, twice the dense one.

    ATen/native/sparse/cuda/SparseCUDATensorMath.cu `add_out_dense_sparse_cuda`: result and input in
    the common type, and one index a value where the sparse tensor is not coalesced.
    """
    dense, other = call.args[0], call.args[1]
    if not isinstance(other, torch.Tensor) or other.layout != torch.sparse_coo:
        return
    common = torch.result_type(dense, other)
    if common != dense.dtype:
        yield dense.numel() * common.itemsize
        yield dense.numel() * common.itemsize
    yield 8 * other._nnz()


def _copied_operands(call: Call) -> Iterable[int]:
    """A matrix that has no unit stride is copied, M·N·e (a gradient that ``sum`` expanded).

    ATen cuda/Blas.cpp `prepare_matrix_for_cublas`.
    """
    for matrix in call.args[-2:]:
        (rows, columns), (down, across) = matrix.shape[-2:], matrix.stride()[-2:]
        by_rows = across == 1 and down >= max(1, columns)
        by_columns = down == 1 and across >= max(1, rows)
        if not (by_rows or by_columns or min(rows, columns) == 1):
            yield matrix.numel() * matrix.element_size()


TEMPORARIES: dict[Any, Hidden] = {
    **dict.fromkeys(
        (_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default),
        _copied_operands,
    ),
    _aten.add_.Tensor: _add_in_place,
    _aten._safe_softmax.default: _safe_softmax,
    _aten._softmax_backward_data.default: _softmax_backward,
    _aten._scaled_dot_product_cudnn_attention_backward.default: _cudnn_backward,
    _aten._scaled_dot_product_efficient_attention.default: _efficient_forward,
    _aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
    _aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
}
"""Rows by operator; what is not here allocates its outputs alone."""

OUTPUT_FIRST: frozenset[Any] = frozenset({_aten._safe_softmax.default} if _REUSED else ())
"""Operators whose temporaries come after their output (native/transformers/attention.cpp: softmax,
then ``self.eq``): which freed block each takes decides what an H200 reserved, to 2 MiB."""
