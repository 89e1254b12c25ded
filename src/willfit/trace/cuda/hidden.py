"""What CUDA kernels allocate inside, where no dispatcher sees it: one row an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from willfit.units import round_up

_aten = torch.ops.aten


class Call(NamedTuple):
    """An operator's call: its arguments and what it returned."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any


Hidden = Callable[[Call], Iterable[int]]
"""Bytes that an operator's CUDA kernel allocates besides its outputs."""


def _safe_softmax(call: Call) -> Iterable[int]:
    """The softmax itself and the places that are all masked; the output is ``where`` of both."""
    elements = call.out.numel()
    return (elements * call.out.element_size(), elements)


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
    _aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
}
"""Rows by operator; what is not here allocates its outputs alone."""
