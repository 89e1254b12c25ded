"""One optimizer step of training as work: forward, backward, recomputation, loss and optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
from willfit.formulas.timing.update import update_work
from willfit.formulas.timing.work import Piece, Work, total
from willfit.formulas.training.lora import Adapter
from willfit.formulas.training.settings import TrainingSettings

BACKWARD_OPERATORS: Final = 1.5
"""Operators that autograd calls for one of forward: a product has two gradients, a view one."""
BACKWARD_TRAFFIC: Final = 1.7
"""Elementwise bytes of backward against forward: gradients beside what forward saved."""
LOSS_BYTES: Final = 34
"""Bytes per logit of loss and its gradient beside the head's products: written 2, upcast 6,
log-softmax 8 + 4, its gradient 12, cast back 6 less what kernels fuse (loss/loss_utils.py)."""
FUSED_LOSS_BYTES: Final = 8
"""The same of a chunked loss: the chunk is written, read and rewritten in place."""
SAVED_BYTES: Final = 34
"""Bytes per token, layer and hidden unit that a layer keeps for backward in 16 bit, attention's
scores apart (Korthikanti et al. 2022, "Reducing Activation Recomputation", equation 1)."""


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
    tensors: int
    """Tensors that hold them."""
    dtype: DType
    adapter: Adapter | None
    share: float
    """Part of the products' parameters whose gradient is computed: 1 in full fine-tuning."""
    kbit: bool
    """Whether the model was prepared for k-bit training: float32 stream and head."""
    liger: bool = False
    offloads: bool = False
    """Whether activations wait in host memory."""


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
    layers = [forward(anatomy, part, tokens, types, rates, kernel=kernel) for part in stacks]
    head = forward(anatomy, "head", tokens, types, rates, kernel=kernel)
    adapters = _adapters(trained.adapter, settings, tokens.count, rates)
    casts = _casts(anatomy, settings)
    loss = _loss(anatomy, settings, tokens.kept)
    ahead = total((*layers, adapters, casts, head, _part(loss, 1 / 3)))
    back = [_backward(work, 1.0 + trained.share) for work in (*layers, head)]
    back += [_backward(adapters, 2.0), _part(loss, 2 / 3)]
    if trained.adapter is None:
        back.append(casts)
    if settings.checkpointing:
        again = 1.0 if settings.reentrant or _adapts_tail(trained.adapter) else anatomy.recomputed
        back += [*(_recomputed(work, again) for work in layers), adapters]
    behind = total(back)
    if trained.offloads:
        copied = _offloaded_bytes(anatomy, settings, tokens)
        ahead, behind = ahead._replace(hidden_bytes=copied), behind._replace(hidden_bytes=copied)
    return StepWork(
        forward=ahead,
        backward=behind,
        update=update_work(settings.optimizer, trained.params, trained.dtype, trained.tensors),
    )


def types_of(anatomy: Anatomy, settings: TrainingSettings, trained: Trained) -> Types:
    """Types of the pass: autocast's where it is on, else the weights', float32 after k-bit prep."""
    plain = FLOAT32 if trained.kbit else anatomy.dtype
    return Types(product=settings.autocast or plain, stream=plain, fused=trained.liger)


def _backward(work: Work, products: float) -> Work:
    """Gradients of a forward pass: ``products`` × its products, 2.5 × flash attention."""
    return Work(
        pieces=tuple(_back(piece, products) for piece in work.pieces),
        backward_operators=work.operators * BACKWARD_OPERATORS,
    )


def _back(piece: Piece, products: float) -> Piece:
    if piece.kind == "memory":
        return piece.times(0.0, BACKWARD_TRAFFIC)
    if piece.kind == "attention":
        return piece.times(FLASH_BACKWARD, 2.0)
    if piece.kind == "eager":
        return piece.times(2.0, EAGER_BACKWARD_BYTES / EAGER_FORWARD_BYTES)
    return piece.times(products, products)


_PRODUCTS: Final = ("product", "dequantized", "float32", "int8", "gemv")


def _recomputed(work: Work, products: float) -> Work:
    """A forward pass with a part of its products."""
    if products == 1.0:
        return work
    pieces = tuple(p.times(products, products) if p.kind in _PRODUCTS else p for p in work.pieces)
    return work._replace(pieces=pieces)


def _adapts_tail(adapter: Adapter | None) -> bool:
    """Whether a layer's last product has an adapter, which is computed after it."""
    return adapter is not None and any(target.role == "down_proj" for target in adapter.targets)


def _part(work: Work, part: float) -> Work:
    pieces = tuple(piece.times(part, part) for piece in work.pieces)
    return Work(pieces=pieces, operators=work.operators * part)


def _adapters(
    adapter: Adapter | None, settings: TrainingSettings, tokens: float, rates: Rates
) -> Work:
    """LoRA beside its layer: 2·r·(in + out)·T FLOPs in the adapter's type, casts and a sum.

    Without autocast the input is cast to the adapter's float32, and products run in it.
    """
    if adapter is None:
        return Work()
    dtype = settings.autocast or adapter.dtype
    inputs = outputs = modules = 0
    for target in adapter.met:
        inputs += target.count * target.in_features
        outputs += target.count * target.out_features
        modules += target.count
    wide = dtype is FLOAT32
    kind: Kind = "float32" if wide else "product"
    flops = 2.0 * adapter.r * (inputs + outputs) * tokens
    moved = tokens * (inputs * (10 if wide else 4) + outputs * (26 if wide else 14))
    moved += tokens * inputs * 5 if adapter.dropout else 0.0
    return Work(
        pieces=(
            Piece(kind, flops, rates.product(dtype), 0.0),
            Piece("memory", 0.0, 0.0, moved),
        ),
        operators=modules * (7.0 if adapter.dropout else 6.0),
    )


def _casts(anatomy: Anatomy, settings: TrainingSettings) -> Work:
    """Autocast's copies of float32 weights in a micro-batch: read 4, written 2 (cached after)."""
    if settings.autocast is None or anatomy.dtype is not FLOAT32:
        return Work()
    plain = [p for part in anatomy.parts.values() for p in part if not p.quantized]
    moved = 6.0 * sum(products.params for products in plain)
    modules = float(sum(products.modules for products in plain))
    return Work(pieces=(Piece("memory", 0.0, 0.0, moved),), operators=modules)


def _loss(anatomy: Anatomy, settings: TrainingSettings, kept: float) -> Work:
    """Cross entropy over the vocabulary: only bytes."""
    per_logit = FUSED_LOSS_BYTES if settings.chunked_loss else LOSS_BYTES
    moved = per_logit * kept * anatomy.architecture.vocab_size
    return Work(pieces=(Piece("memory", 0.0, 0.0, moved),), operators=30.0)


def _offloaded_bytes(anatomy: Anatomy, settings: TrainingSettings, tokens: Tokens) -> float:
    """Bytes that go to the host in forward and come back in backward: 34·h a token and layer.

    Checkpointed, only the input of every layer: 2·h.
    """
    layers = anatomy.architecture.all_layers
    kept = 2 if settings.checkpointing else SAVED_BYTES
    return float(kept * anatomy.architecture.hidden_size * layers * tokens.count)
