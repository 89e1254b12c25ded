"""What a training run holds whatever the batch: trainable tensors, gradients, optimizer states."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from willfit.allocator.rounding import round_block
from willfit.dtypes import FLOAT32, DType
from willfit.formulas.training.freeze import trained_rows
from willfit.formulas.training.lora import Adapter
from willfit.formulas.training.optimizers import (
    Optimizer,
    paged_bytes,
    state_bytes,
    step_copies,
)
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.identity import by_identity


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """Equal trainable tensors."""

    shape: tuple[int, ...]
    count: int
    dtype: DType
    is_embedding: bool = False

    @cached_property
    def num_elements(self) -> int:
        """Elements of one of them."""
        return math.prod(self.shape)

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all of them after rounding."""
        return self.count * round_block(self.dtype.num_bytes(self.num_elements))


def flat(elements: int) -> Trainable:
    """One float32 tensor of so many values, as DeepSpeed gives them to an optimizer."""
    return Trainable(shape=(elements,), count=1, dtype=FLOAT32)


def trainables(
    weights: LoadedWeights, adapter: Adapter | None, freeze: tuple[str, ...] = ()
) -> tuple[Trainable, ...]:
    """The adapter's tensors, or every parameter of the model that is not frozen."""
    if adapter is not None:
        return _of_adapter(adapter)
    return _of_model(trained_rows(weights.rows, freeze))


@by_identity(256)
def _of_adapter(adapter: Adapter) -> tuple[Trainable, ...]:
    return tuple(
        Trainable(shape=shape, count=count, dtype=adapter.dtype)
        for shape, count in adapter.shapes()
    )


@by_identity(64)
def _of_model(rows: tuple[LoadedRow, ...]) -> tuple[Trainable, ...]:
    return tuple(
        Trainable(
            shape=loaded.row.shape,
            count=loaded.row.count,
            dtype=loaded.dtype,
            is_embedding=loaded.row.module == "Embedding",
        )
        for loaded in rows
    )


@by_identity(256)
def total_bytes(tensors: tuple[Trainable, ...]) -> int:
    """Bytes of the tensors, which is also what their gradients take."""
    return sum(tensor.num_bytes for tensor in tensors)


@by_identity(512)
def optimizer_state_bytes(
    tensors: tuple[Trainable, ...], optimizer: Optimizer, *, full_embeddings: bool = False
) -> tuple[int, int]:
    """(on the GPU, outside of it) bytes of all optimizer states.

    ``full_embeddings``: the Trainer has bitsandbytes keep those of an embedding in 32 bits
    (transformers 5.23 trainer.py `create_optimizer`).
    """
    here = elsewhere = 0
    for tensor in tensors:
        full = full_embeddings and tensor.is_embedding and optimizer.full_embeddings
        size = tensor.dtype.block_bytes
        total = state_bytes(optimizer, tensor.shape, size, full_states=full)
        away = paged_bytes(optimizer, tensor.shape, size, full_states=full)
        here += tensor.count * round_block(total - away) if total > away else 0
        elsewhere += tensor.count * away
    return here, elsewhere


@by_identity(512)
def step_temporary_bytes(tensors: tuple[Trainable, ...], optimizer: Optimizer) -> int:
    """Temporaries of one optimizer step: copies of everything (foreach) or of the largest."""
    everything = sum(t.count * t.dtype.num_bytes(t.num_elements) for t in tensors)
    largest = max(
        (step_copies(optimizer, t.dtype.block_bytes) * t.num_elements for t in tensors), default=0
    )
    return round(optimizer.step_all * everything + largest)


def kbit_upcast(weights: LoadedWeights) -> tuple[int, int]:
    """(growth, transient) of `prepare_model_for_kbit_training`.

    Every 16-bit parameter that is not quantised becomes float32, embeddings and head too; the old
    and the new copy of the largest are alive together (peft 0.21.2 utils/other.py).
    """
    plain = [
        loaded
        for loaded in weights.rows
        if loaded.row.is_parameter
        and not loaded.quantized
        and loaded.dtype.is_floating
        and loaded.dtype is not FLOAT32
        and loaded.weight_bytes
    ]
    growth = sum(
        loaded.row.count
        * (
            round_block(FLOAT32.num_bytes(loaded.row.num_elements))
            - round_block(loaded.weight_bytes)
        )
        for loaded in plain
    )
    transient = max((loaded.weight_bytes for loaded in plain), default=0)
    return growth, transient
