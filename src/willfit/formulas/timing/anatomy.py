"""Anatomy: what the time model needs of a loaded model, found once and kept."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.timing.products import Products, products_of
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import Architecture, Attention, LayerGroup, ModelSpec
from willfit.scenario.workload import Quantization

RMS_OPERATORS = 8
"""RMSNorm in Python: to, pow, mean, add, rsqrt, mul, to, mul (transformers `LlamaRMSNorm`)."""
LAYER_OPERATORS = 25
"""Other operators of a decoder layer: rotary embedding of q and k 14, views and transposes 4, two
of the cache, attention 1, two residual sums, activation and product 2 (`LlamaDecoderLayer`)."""
MODEL_OPERATORS = 120
"""Operators around the layers: embedding, rotary tables, mask, last norm, head and, in generation,
the choice of the next token with its stopping criteria (generation/utils.py `_sample`)."""
EXPERT_OPERATORS = 20
"""Operators of a routed layer whose experts run in one grouped product (transformers 5)."""
RMS_NORM_BYTES = 30
"""Bytes moved per element by RMSNorm in 16 bit: upcast 6, square 8, mean 4, scale 8, cast 6…
one kernel a line, less what stays in cache."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Equal sums over one stack of layers."""

    layers: int
    mixers: tuple[tuple[int, Attention], ...]
    """(layers, attention) of each kind."""
    recurrent_layers: int
    elementwise_bytes: float
    """Bytes that a token moves through all layers outside products and attention, in 16 bit."""
    operators: float
    """Operators of all layers besides the products."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A loaded model as products, attention, elementwise traffic and operators."""

    architecture: Architecture
    products: tuple[Products, ...]
    decoder: Stack
    encoder: Stack | None
    dtype: DType
    quantization: Quantization | None
    """How bitsandbytes computes the quantised products, None where it does not."""
    stored_method: str | None
    """Quantisation that the checkpoint is stored in."""
    num_experts: int
    experts_per_token: int
    weight_bytes: int

    @property
    def compute_dtype(self) -> DType:
        """Type of the quantised products."""
        if self.quantization is None or self.quantization.scheme == "int8":
            return self.dtype
        return self.quantization.compute_dtype or FLOAT32


def anatomy_of(model: ModelSpec, architecture: Architecture, weights: LoadedWeights) -> Anatomy:
    """The anatomy of a model with its weights as loaded."""
    routed = [g.mlp for g in architecture.layers if g.mlp is not None and g.mlp.num_experts]
    return Anatomy(
        architecture=architecture,
        products=tuple(p for p in products_of(model, weights) if p.part != "other"),
        decoder=_stack(architecture, architecture.layers),
        encoder=_stack(architecture, architecture.encoder_layers)
        if architecture.encoder_layers
        else None,
        dtype=weights.dtype,
        quantization=weights.arithmetic,
        stored_method=model.quantization.method if model.quantization else None,
        num_experts=routed[0].num_experts if routed else 0,
        experts_per_token=routed[0].experts_per_token if routed else 0,
        weight_bytes=weights.weight_bytes + weights.quantization_state_bytes,
    )


def _stack(architecture: Architecture, groups: tuple[LayerGroup, ...]) -> Stack:
    return Stack(
        layers=sum(group.count for group in groups),
        mixers=tuple((g.count, g.attention) for g in groups if g.attention is not None),
        recurrent_layers=sum(group.count for group in groups if group.recurrent is not None),
        elementwise_bytes=sum(g.count * _elementwise(architecture, g) for g in groups),
        operators=sum(g.count * _operators(architecture, g) for g in groups),
    )


def _elementwise(architecture: Architecture, group: LayerGroup) -> float:
    """Bytes per token and layer in 16 bit: norms, residual sums, activation, rotary embedding.

    Norm 30·h (RMSNorm in Python) or 4·h; two sums of 6·h; act(gate) 4·I and the product 6·I (or
    4·I alone); rotary embedding of q and k 14·D a head; a routed token is gathered and scattered.
    """
    hidden = architecture.hidden_size
    norm = RMS_NORM_BYTES if architecture.rms_norm else 4
    moved = (norm * architecture.norms_per_layer + 12) * hidden
    attention, mlp = group.attention, group.mlp
    if attention is not None:
        heads = attention.num_heads + attention.num_kv_heads
        moved += 14 * heads * attention.head_dim
    if group.recurrent is not None:
        moved += 20 * group.recurrent.inner_size
    if mlp is not None:
        active = mlp.intermediate_size * max(mlp.experts_per_token, 1)
        moved += (10 if mlp.gated else 4) * (active + mlp.shared_intermediate_size)
        moved += 8 * hidden * mlp.experts_per_token
    return float(moved)


def _operators(architecture: Architecture, group: LayerGroup) -> float:
    norm = RMS_OPERATORS if architecture.rms_norm else 1
    routed = EXPERT_OPERATORS if group.mlp is not None and group.mlp.num_experts else 0
    return float(norm * architecture.norms_per_layer + LAYER_OPERATORS + routed)
