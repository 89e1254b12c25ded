"""One optimizer step of training as work: forward, backward, recomputation, loss and optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.timing.anatomy import Anatomy
from willfit.formulas.timing.attention import (
    EAGER_BACKWARD_BYTES,
    EAGER_FORWARD_BYTES,
    FLASH_BACKWARD,
)
from willfit.formulas.timing.efficiency import Kind
from willfit.formulas.timing.forward import Tokens, Types, forward
from willfit.formulas.timing.products import Part
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.work import Piece, Work, total
from willfit.formulas.training.lora import Adapter
from willfit.formulas.training.optimizers import Optimizer
from willfit.formulas.training.settings import TrainingSettings

BACKWARD_OPERATORS = 1.5
"""Operators that autograd calls for one of forward: a product has two gradients, a view one."""
BACKWARD_TRAFFIC = 1.7
"""Elementwise bytes of backward against forward: gradients beside what forward saved."""
LOSS_BYTES = 34
"""Bytes per logit of loss and its gradient beside the head's products: written 2, upcast 6,
log-softmax 8 + 4, its gradient 12, cast back 6 less what kernels fuse (loss/loss_utils.py)."""
FUSED_LOSS_BYTES = 8
"""The same of a chunked loss: the chunk is written, read and rewritten in place."""


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Work of one optimizer step on one GPU by phase."""

    forward: Work
    """Of one micro-batch."""
    backward: Work
    """Of one micro-batch, recomputation included."""
    update: Work
    """Clipping and the optimizer, once a step."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained."""

    params: float
    """Trainable parameters."""
    dtype: DType
    adapter: Adapter | None
    share: float
    """Part of the products' parameters whose gradient is computed: 1 in full fine-tuning."""
    kbit: bool
    """Whether the model was prepared for k-bit training: float32 stream and head."""


def types_of(anatomy: Anatomy, settings: TrainingSettings, trained: Trained) -> Types:
    """Types of the pass: autocast's where it is on, else the weights', float32 after k-bit prep."""
    plain = FLOAT32 if trained.kbit else anatomy.dtype
    product = settings.autocast or plain
    return Types(product=product, stream=plain, head=product)


def step_work(
    anatomy: Anatomy,
    settings: TrainingSettings,
    trained: Trained,
    tokens: Tokens,
    rates: Rates,
    *,
    kernel: str,
) -> StepWork:
    """All of a step. Backward of a product is its input's gradient, and the weight's if trained."""
    types = types_of(anatomy, settings, trained)
    stacks: tuple[Part, ...] = ("encoder", "layers") if anatomy.encoder is not None else ("layers",)
    layers = total(forward(anatomy, part, tokens, types, rates, kernel=kernel) for part in stacks)
    head = forward(anatomy, "head", tokens, types, rates, kernel=kernel)
    adapters = _adapters(trained.adapter, settings, tokens.count, rates)
    casts = _casts(anatomy, settings)
    onward = layers + adapters
    ahead = onward + casts + head + _loss(anatomy, settings, tokens.kept, part=1 / 3)
    back = (
        _backward(layers, trained)
        + _backward(head, trained)
        + _doubled(adapters)
        + _loss(anatomy, settings, tokens.kept, part=2 / 3)
    )
    if trained.adapter is None:
        back = back + casts
    if settings.checkpointing:
        back = back + onward
    return StepWork(forward=ahead, backward=back, update=_update(settings, trained))


def _backward(work: Work, trained: Trained) -> Work:
    """Gradients of a forward pass: (1 + trained share) × products, 2.5 × flash attention."""
    products = 1.0 + trained.share
    pieces = tuple(_back(piece, products) for piece in work.pieces)
    return Work(pieces=pieces, backward_operators=work.operators * BACKWARD_OPERATORS)


def _back(piece: Piece, products: float) -> Piece:
    if piece.kind == "memory":
        return replace_piece(piece, 0.0, BACKWARD_TRAFFIC)
    if piece.kind == "attention":
        return replace_piece(piece, FLASH_BACKWARD, 2.0)
    if piece.kind == "eager":
        return replace_piece(piece, 2.0, EAGER_BACKWARD_BYTES / EAGER_FORWARD_BYTES)
    return replace_piece(piece, products, products)


def replace_piece(piece: Piece, flops: float, num_bytes: float) -> Piece:
    """The piece with its amounts multiplied."""
    return Piece(piece.kind, piece.flops * flops, piece.rate, piece.num_bytes * num_bytes)


def _doubled(work: Work) -> Work:
    pieces = tuple(replace_piece(piece, 2.0, 2.0) for piece in work.pieces)
    return Work(pieces=pieces, backward_operators=work.operators * BACKWARD_OPERATORS)


def _adapters(
    adapter: Adapter | None, settings: TrainingSettings, tokens: float, rates: Rates
) -> Work:
    """LoRA beside its layer: 2·r·(in + out)·T FLOPs in the adapter's type, casts and a sum.

    Without autocast the input is cast to the adapter's float32, and products run in it.
    """
    if adapter is None:
        return Work()
    dtype = settings.autocast or adapter.dtype
    inputs = sum(target.count * target.in_features for target in adapter.targets)
    outputs = sum(target.count * target.out_features for target in adapter.targets)
    modules = sum(target.count for target in adapter.targets)
    flops = 2.0 * adapter.r * (inputs + outputs) * tokens
    wide = dtype is FLOAT32
    moved = tokens * (inputs * (10 if wide else 4) + outputs * (26 if wide else 14))
    kind: Kind = "float32" if wide else "product"
    dropped = tokens * inputs * 5 if adapter.dropout else 0.0
    return Work(
        pieces=(Piece(kind, flops, rates.product(dtype), 0.0),
                Piece("memory", 0.0, 0.0, moved + dropped)),
        operators=modules * (7.0 if adapter.dropout else 6.0),
    )  # fmt: skip


def _casts(anatomy: Anatomy, settings: TrainingSettings) -> Work:
    """Autocast's copies of float32 weights in a micro-batch: read 4, written 2 (cached after)."""
    if settings.autocast is None or anatomy.dtype is not FLOAT32:
        return Work()
    params = sum(p.params for p in anatomy.products if not p.quantized)
    modules = sum(p.modules for p in anatomy.products if not p.quantized)
    return Work(pieces=(Piece("memory", 0.0, 0.0, 6.0 * params),), operators=float(modules))


def _loss(anatomy: Anatomy, settings: TrainingSettings, kept: float, *, part: float) -> Work:
    """Cross entropy over the vocabulary: only bytes."""
    per_logit = FUSED_LOSS_BYTES if settings.chunked_loss else LOSS_BYTES
    moved = per_logit * kept * anatomy.architecture.vocab_size * part
    return Work(pieces=(Piece("memory", 0.0, 0.0, moved),), operators=10.0)


def _update(settings: TrainingSettings, trained: Trained) -> Work:
    """Clipping reads gradients and writes them, the optimizer reads and writes all it has."""
    size = trained.dtype.block_bytes
    optimizer = settings.optimizer
    moved = trained.params * (3.0 * size + _optimizer_bytes(optimizer, size))
    host = trained.params * _state_bytes(optimizer, size) * 2 if optimizer.on_host else 0.0
    return Work(pieces=(Piece("state", 0.0, 0.0, moved),), operators=60.0, host_bytes=float(host))


def _state_bytes(optimizer: Optimizer, size: int) -> float:
    if optimizer.factored:
        return 0.0
    return optimizer.state_bytes if optimizer.state_bytes is not None else optimizer.states * size


def _optimizer_bytes(optimizer: Optimizer, size: int) -> float:
    """Bytes per parameter: gradient read, weight and states read and written.

    Kernels that are not fused (foreach, Python) move temporaries and read their inputs again:
    AdamW's foreach path has nine passes of two to three tensors (torch 2.13 optim/adamw.py).
    """
    once = 3.0 * size + 2.0 * _state_bytes(optimizer, size)
    again = 12.0 * size if optimizer.step_all or optimizer.step_largest else 0.0
    return once + again
