"""The optimizer's step and clipping: only bytes."""

from __future__ import annotations

from typing import Final

from willfit.dtypes import DType
from willfit.formulas.timing.work import Piece, Work
from willfit.formulas.training.optimizers import Optimizer

UPDATE_OPERATORS: Final = 60.0
"""Operators of clipping and a step whose kernels take all parameters at once."""
UNFUSED_PASSES: Final = 12.0
"""Tensors more that a step reads and writes whose kernels are not fused: AdamW's foreach path has
nine passes of two or three tensors (torch 2.13 optim/adamw.py `_multi_tensor_adamw`)."""


TENSOR_OPERATORS_8BIT: Final = 8.0
TENSOR_OPERATORS_32BIT: Final = 5.0
TENSOR_OPERATORS_FACTORED: Final = 15.0
"""Operators for every tensor of steps that go through them one by one: bitsandbytes in 8 and 32 bit
(optim/optimizer.py `step`), Adafactor (transformers optimization.py). In operators' time, between
such steps of Llama-3.2-1B and of a QLoRA on an H200 (tests/data/measured/h200.jsonl)."""


def update_work(optimizer: Optimizer, params: float, dtype: DType, tensors: int) -> Work:
    """Clipping reads gradients and writes them, the optimizer reads and writes all it has."""
    size = dtype.block_bytes
    states = state_bytes(optimizer, size)
    moved = params * (3.0 * size + _optimizer_bytes(optimizer, size))
    return Work(
        pieces=(Piece("state", 0.0, 0.0, moved),),
        operators=UPDATE_OPERATORS + tensors * _tensor_operators(optimizer),
        host_bytes=2 * states * params if optimizer.on_host else 0.0,
        paged_bytes=2 * states * params if optimizer.paged else 0.0,
    )


def _tensor_operators(optimizer: Optimizer) -> float:
    if optimizer.factored:
        return TENSOR_OPERATORS_FACTORED
    if optimizer.state_bytes is None:
        return 0.0
    return TENSOR_OPERATORS_8BIT if optimizer.eight_bit else TENSOR_OPERATORS_32BIT


def state_bytes(optimizer: Optimizer, size: int) -> float:
    """Bytes of states per parameter of ``size`` bytes; a factored optimizer has next to none."""
    if optimizer.factored:
        return 0.0
    return optimizer.state_bytes if optimizer.state_bytes is not None else optimizer.states * size


def _optimizer_bytes(optimizer: Optimizer, size: int) -> float:
    """Bytes per parameter: gradient read, weight and states read and written."""
    once = 3.0 * size + 2.0 * state_bytes(optimizer, size)
    unfused = optimizer.step_all or optimizer.step_largest
    return once + (UNFUSED_PASSES * size if unfused else 0.0)
