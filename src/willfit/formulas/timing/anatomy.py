"""Anatomy: what the time model needs of a loaded model, found once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.experts import FUSED_SINCE, copies_experts
from willfit.formulas.gemm import FUSED_4BIT_SINCE
from willfit.formulas.timing.products import Part, Products, products_of
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import Architecture, Attention, LayerGroup, ModelSpec
from willfit.scenario.stack import Stack as Versions
from willfit.scenario.workload import Quantization

PACKED_ROWS: Final = 50
"""Rows that exllamav2's kernels multiply packed (`MAX_Q_GEMM_ROWS`); AutoAWQ's GEMM is alike."""
OLD_ROWS: Final = 7
"""The same of the first exllama (auto_gptq `q4_recons_thd` 8)."""
EXLLAMA2_SINCE: Final = "4.35"
"""transformers release from which GPTQ checkpoints run on exllamav2's kernels by default."""
RMS_OPERATORS: Final = 8
"""RMSNorm in Python: to, pow, mean, add, rsqrt, mul, to, mul (transformers `LlamaRMSNorm`)."""
LAYER_OPERATORS: Final = 11
"""Other operators of a layer: views and transposes 4, two of the cache, attention 1, two residual
sums, activation and product 2 (`LlamaDecoderLayer`)."""
ROTARY_OPERATORS: Final = 14
"""Rotary embedding of q and k: two products, slices, a negation, a concatenation and a sum each."""
MODEL_OPERATORS: Final = 40
"""Operators around the layers: embedding, rotary tables, mask, last norm, head."""
EXPERT_OPERATORS: Final = 20
"""Operators of a routed layer whose experts run in one grouped product (transformers 5)."""
RMS_NORM_BYTES: Final = 30
"""Bytes moved per element by RMSNorm in 16 bit: upcast 6, square 8, mean 4, scale 8, cast 6…
one kernel a line, less what stays in cache."""
FUSED_BYTES: Final = 4
"""Bytes moved per element by a norm or a rotary embedding in one kernel: read 2, written 2."""
LOOP_OPERATORS: Final = 8
"""Operators per expert and layer of the Python loop over experts (transformers before 5)."""


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
    fused_bytes: float
    """The bytes where norms, rotary embedding and gated product are one kernel each (Liger)."""
    fused_operators: float
    """The operators there."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A loaded model as products, attention, elementwise traffic and operators."""

    architecture: Architecture
    parts: Mapping[Part, tuple[Products, ...]]
    """Products by where they are; a layer's experts are under ``layers``."""
    decoder: Stack
    encoder: Stack | None
    dtype: DType
    quantization: Quantization | None
    """How bitsandbytes computes the quantised products, None where it does not."""
    stored_method: str | None
    """Quantisation that the checkpoint is stored in."""
    stored_bits: float
    packed_rows: int
    """Rows up to which GPTQ's and AWQ's kernels multiply packed weights; more dequantise first."""
    copies_experts: bool
    """Whether decoding copies the weights of every token's experts."""
    fuses_4bit: bool
    """Whether bitsandbytes has kernels that multiply several rows with 4-bit weights."""
    num_experts: int
    experts_per_token: int
    weight_bytes: int

    @cached_property
    def repeats(self) -> float:
        """Query heads per key head, 0 where K and V need no copies for them."""
        ratios = [a.num_heads / a.num_kv_heads for _, a in self.decoder.mixers]
        largest = max(ratios, default=1.0)
        return largest if largest > 1 else 0.0

    @cached_property
    def recomputed(self) -> float:
        """Part of the layers' products that non-reentrant checkpointing runs again.

        It stops once every saved tensor is there (torch 2.13 checkpoint.py, early stop), and a last
        product that goes straight into the residual sum, with no norm, dropout or factor behind
        it, is behind them.
        """
        a = self.architecture
        if not a.rms_norm or a.dropout or a.post_norm or a.norms_per_layer > 2:
            return 1.0
        share = self.experts_per_token / self.num_experts if self.num_experts else 1.0
        active = [p.params * (share if p.part == "experts" else 1.0) for p in self.parts["layers"]]
        tail = sum(products.tail_params for products in self.parts["layers"])
        return 1.0 - tail / sum(active) if sum(active) else 1.0

    @property
    def compute_dtype(self) -> DType:
        """Type of the quantised products."""
        if self.quantization is None or self.quantization.scheme == "int8":
            return self.dtype
        return self.quantization.compute_dtype or FLOAT32


def anatomy_of(
    model: ModelSpec, architecture: Architecture, weights: LoadedWeights, versions: Versions
) -> Anatomy:
    """The anatomy of a model with its weights as loaded."""
    routed = [g.mlp for g in architecture.layers if g.mlp is not None and g.mlp.num_experts]
    looped = not versions.at_least("transformers", FUSED_SINCE)
    rotary = any("rope" in key or "rotary" in key for key in model.config)
    return Anatomy(
        architecture=architecture,
        parts=_by_part(products_of(model, weights)),
        decoder=_stack(architecture, architecture.layers, rotary=rotary, looped=looped),
        encoder=_stack(architecture, architecture.encoder_layers, rotary=rotary, looped=looped)
        if architecture.encoder_layers
        else None,
        dtype=weights.dtype,
        quantization=weights.arithmetic,
        stored_method=model.quantization.method if model.quantization else None,
        stored_bits=model.quantization.bits if model.quantization else 0,
        packed_rows=PACKED_ROWS if versions.at_least("transformers", EXLLAMA2_SINCE) else OLD_ROWS,
        copies_experts=copies_experts(model, versions),
        fuses_4bit=versions.at_least("bitsandbytes", FUSED_4BIT_SINCE),
        num_experts=routed[0].num_experts if routed else 0,
        experts_per_token=routed[0].experts_per_token if routed else 0,
        weight_bytes=weights.weight_bytes + weights.quantization_state_bytes,
    )


def _by_part(products: tuple[Products, ...]) -> Mapping[Part, tuple[Products, ...]]:
    parts: dict[Part, tuple[Products, ...]] = {"layers": (), "encoder": (), "head": ()}
    for some in products:
        part: Part = "layers" if some.part == "experts" else some.part
        parts[part] = (*parts.get(part, ()), some)
    return parts


def _stack(
    architecture: Architecture, groups: tuple[LayerGroup, ...], *, rotary: bool, looped: bool
) -> Stack:
    def summed(what: Callable[..., float], *, fused: bool) -> float:
        return sum(g.count * what(architecture, g, rotary=rotary, fused=fused) for g in groups)

    experts = sum(g.count * g.mlp.num_experts for g in groups if g.mlp is not None)
    loops = float(experts * LOOP_OPERATORS) if looped else 0.0
    return Stack(
        layers=sum(group.count for group in groups),
        mixers=tuple((g.count, g.attention) for g in groups if g.attention is not None),
        recurrent_layers=sum(group.count for group in groups if group.recurrent is not None),
        elementwise_bytes=summed(_elementwise, fused=False),
        operators=summed(_operators, fused=False) + loops,
        fused_bytes=summed(_elementwise, fused=True),
        fused_operators=summed(_operators, fused=True) + loops,
    )


def _elementwise(
    architecture: Architecture, group: LayerGroup, *, rotary: bool, fused: bool
) -> float:
    """Bytes per token and layer in 16 bit: norms, residual sums, activation, rotary embedding.

    Norm 30·h (RMSNorm in Python) or 4·h; two sums of 6·h; act(gate) 4·I and the product 6·I (or
    4·I alone); rotary embedding of q and k 14·D a head; a routed token is gathered and scattered.
    """
    hidden = architecture.hidden_size
    norm = RMS_NORM_BYTES if architecture.rms_norm and not fused else FUSED_BYTES
    moved = (norm * architecture.norms_per_layer + 12) * hidden
    attention, mlp = group.attention, group.mlp
    if attention is not None and rotary:
        heads = attention.num_heads + attention.num_kv_heads
        moved += (FUSED_BYTES if fused else 14) * heads * attention.head_dim
    if group.recurrent is not None:
        moved += 20 * group.recurrent.inner_size
    if mlp is not None:
        active = mlp.intermediate_size * max(mlp.experts_per_token, 1)
        gated = 6 if fused else 10
        moved += (gated if mlp.gated else 4) * (active + mlp.shared_intermediate_size)
        moved += 8 * hidden * mlp.experts_per_token
    return float(moved)


def _operators(
    architecture: Architecture, group: LayerGroup, *, rotary: bool, fused: bool
) -> float:
    """Operators of one layer besides its products."""
    norms = architecture.norms_per_layer
    if group.attention is not None and group.attention.qk_norm:
        norms += 2
    each = RMS_OPERATORS if architecture.rms_norm and not fused else 1
    routed = EXPERT_OPERATORS if group.mlp is not None and group.mlp.num_experts else 0
    turned = (1 if fused else ROTARY_OPERATORS) if rotary else 0
    return float(each * norms + LAYER_OPERATORS + turned + routed)
