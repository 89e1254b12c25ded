"""Activations kept for backward, per decoder layer.

Each term was identified on transformers 5.23's own code run with CUDA's kernels substituted: h
hidden size, I intermediate size, D head size, e bytes of the stream's type; all per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.attention import AttentionShape, saved_bytes
from willfit.formulas.training.lora import Adapter, input_of
from willfit.scenario.model import Architecture, Attention, LayerGroup, Mlp

_SAVING_ACTIVATIONS: Final = {
    "relu": 0, "relu2": 2, "gelu_new": 4, "gelu_fast": 4, "gated-gelu": 4,
}  # fmt: skip
"""Tensors of width I that an activation keeps besides its output; one for the usual. T5's
``gated-gelu`` is ``gelu_new``; BLOOM's is a function that keeps its input (`GeLUFunction`)."""
_POWERS: Final = frozenset({"gelu_new", "gated-gelu"})
"""Activations that take a power, which autocast computes in float32 (its list has ``pow``)."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Types that the layers work in."""

    residual: DType
    """Type of the residual stream: float32 after `prepare_model_for_kbit_training`."""
    compute: DType
    """Type of matrix products: autocast's, else the residual's."""
    trained: bool
    """Whether the layer's own weights are trained (full fine-tuning)."""
    quantized: bool
    autocast: bool
    fused_qkv: bool = False
    """One projection makes q, k and v: one input, cast once."""
    fused_gate_up: bool = False
    """One projection makes gate and up."""
    views_fused_qkv: bool = False
    """v is a view of the fused projection, rotary makes new q and k by concatenation."""
    liger: bool = False
    """Norms and gated MLPs are Liger's, which keep less."""


def layer_bytes_per_token(
    architecture: Architecture, group: LayerGroup, stream: Stream, adapter: Adapter | None
) -> float:
    """Everything linear in the tokens that one layer keeps, attention apart."""
    kept = _norms(architecture, group, stream)
    kept += _linear_inputs(architecture, group, stream)
    if group.mlp is not None:
        kept += mlp_bytes_per_token(architecture, group.mlp, stream)
    if architecture.dropout:  # native_dropout keeps a one-byte mask
        kept += (3 if _crosses(group) else 2) * architecture.hidden_size
    if architecture.activation_dropout and group.mlp is not None:
        kept += group.mlp.intermediate_size
    if adapter is not None:
        kept += lora_inputs(architecture, stream, adapter)
        kept += _dora_results(architecture, stream, adapter)
    return kept


def norms_embeddings(architecture: Architecture) -> bool:
    """BERT and its kin: a norm on the embeddings, and layers that end with one."""
    return architecture.fixed_positions and not architecture.is_decoder


def embedding_bytes_per_token(architecture: Architecture, stream: Stream) -> int:
    """Before the first layer: that norm's input, and what it or dropout gives the layer.

    Under autocast the layer reads copies. Elsewhere embeddings are the first norm's input, which
    is the layer's.
    """
    if not norms_embeddings(architecture):
        return 0
    mask = 1 if architecture.dropout else 0
    tensors = 1 if stream.autocast and stream.residual is FLOAT32 else 2
    return architecture.hidden_size * (tensors * stream.residual.block_bytes + mask)


def _crosses(group: LayerGroup) -> bool:
    return group.attention is not None and group.attention.cross


def _norms(architecture: Architecture, group: LayerGroup, stream: Stream) -> float:
    """RMSNorm keeps its input in float32, 4·h, and 4 for its scale; Gemma and trained ones more.

    Trained weight: the normalised tensor in the stream's type, e·h (Gemma: float32). LayerNorm
    keeps its input as it is, e·h (parallel branches share it), and two float32 statistics; autocast
    gives it a float32 copy of its own. q and k
    norms: the same per head, on what their projections give, which is in the compute type. Liger's
    keeps its input as it is (ops/rms_norm.py).
    """
    h, e = architecture.hidden_size, stream.residual.block_bytes
    norms = _norms_in(architecture, group)
    if not architecture.rms_norm:
        kept_bytes = norm_input_bytes(architecture, stream)
        shared = architecture.parallel_residual and kept_bytes == e
        return (1 if shared else norms) * kept_bytes * h + 8 * norms
    if stream.liger:
        return norms * (e * h + 4)
    normalised = (4 if architecture.norm_keeps_fp32 else e) if stream.trained else 0
    kept: float = norms * ((4 + normalised) * h + 4)
    attention = group.attention
    if attention is not None and attention.qk_norm:
        heads = attention.num_heads + attention.num_kv_heads
        if stream.trained and not architecture.norm_keeps_fp32:
            normalised = stream.compute.block_bytes
        kept += (4 + normalised) * attention.head_dim * heads + 4 * heads
    return kept


def norm_input_bytes(architecture: Architecture, stream: Stream) -> int:
    """Bytes an element of what a norm keeps of its input: autocast's list has ``layer_norm``."""
    in_float32 = architecture.rms_norm or stream.autocast
    return FLOAT32.block_bytes if in_float32 else stream.residual.block_bytes


def _norms_in(architecture: Architecture, group: LayerGroup) -> int:
    """An encoder's layer lacks the norm before cross attention."""
    encoder = bool(architecture.encoder_layers) and not _crosses(group)
    return architecture.norms_per_layer - (1 if encoder else 0)


def _linear_inputs(architecture: Architecture, group: LayerGroup, stream: Stream) -> float:
    """Inputs of trained products: the outputs of the norms, in the type of the product.

    Under autocast with a float32 stream, or a LayerNorm, whose output then is, q, k, v, gate and up
    each cast their own copy; so do k and v of cross attention, whose input all layers share
    otherwise.
    """
    if not stream.trained:
        return 0
    e = stream.compute.block_bytes
    h = architecture.hidden_size
    if stream.autocast and (stream.residual is FLOAT32 or not architecture.rms_norm):
        gated = group.mlp is not None and group.mlp.gated and not stream.fused_gate_up
        cross = 3 if _crosses(group) else 0
        return e * h * ((1 if stream.fused_qkv else 3) + cross + (2 if gated else 1))
    shared = architecture.parallel_residual and architecture.norms_per_layer == 1
    return e * h * (1 if shared else 3 if _crosses(group) else 2)


def mlp_bytes_per_token(architecture: Architecture, mlp: Mlp, stream: Stream) -> float:
    """Gated: gate, up and the activated gate, 3·I·e; trained: their product or dropout's result.

    Ungated: the activation's input, and trained its output. Experts: the same for every one of
    the k experts of a token, with the weighted output and, trained, the gathered input.
    """
    e = _mlp_dtype(stream).block_bytes
    if mlp.num_experts:
        h, k = architecture.hidden_size, mlp.experts_per_token
        width = mlp.intermediate_size * k
        tensors = _width_tensors(architecture, mlp, stream)
        shared = tensors * e * mlp.shared_intermediate_size
        router = 4 * mlp.num_experts + 8 * k
        gathered = (2 if stream.trained else 1) * e * h * k
        return tensors * e * width + gathered + shared + router
    kept = _width_tensors(architecture, mlp, stream) * e
    if takes_power(architecture) and stream.autocast and e < FLOAT32.block_bytes:
        # the power's input, tanh and 1 + tanh; the product by up keeps the result, float32 too
        kept += (4 if mlp.gated else 3) * (FLOAT32.block_bytes - e)
    return kept * mlp.intermediate_size


def takes_power(architecture: Architecture) -> bool:
    """Whether the activation is several operators, one of them a power."""
    return architecture.hidden_act in _POWERS


def _mlp_dtype(stream: Stream) -> DType:
    """Quantised layers give back the type that they were given."""
    return stream.residual if stream.quantized else stream.compute


def _width_tensors(architecture: Architecture, mlp: Mlp, stream: Stream) -> int:
    inner = _SAVING_ACTIVATIONS.get(architecture.hidden_act, 1)
    if mlp.gated:  # Liger computes the activated gate anew (ops/swiglu.py)
        return inner + (3 if stream.trained else 2) - stream.liger
    if architecture.hidden_act == "relu":  # keeps its result, which the next product may read too
        return 2 if architecture.activation_dropout and stream.trained else 1
    return inner + (1 if stream.trained else 0)


def lora_inputs(architecture: Architecture, stream: Stream, adapter: Adapter) -> float:
    """What adapters keep of their inputs: one copy per module where it is cast or dropped out.

    PEFT casts the input to the adapter's type for every module (`_cast_input_dtype`), autocast
    casts it back; dropout adds a one-byte mask and its output. Without dropout, what is in the
    right type already is shared: under autocast with a 4-bit base (`lora.bnb` does not cast), or
    where stream and adapter are both of the type of the products.
    """
    layers = architecture.all_layers
    n_in = adapter.in_features_per_layer(layers)
    e = stream.compute.block_bytes if stream.autocast else adapter.dtype.block_bytes
    ranks = adapter.modules_per_layer(layers) * adapter.r * e
    if adapter.dropout:
        return (e + 1) * n_in + ranks
    casts = stream.autocast and adapter.dtype is not stream.compute
    same = not casts and stream.residual is adapter.dtype
    if same and stream.trained:
        return ranks
    if same or (stream.quantized and stream.autocast):
        return e * _unshared_inputs(architecture, adapter, shared=same or _half(stream)) + ranks
    return e * n_in + ranks


def _dora_results(architecture: Architecture, stream: Stream, adapter: Adapter) -> float:
    """DoRA's magnitude multiplies the base's and the adapter's result, and keeps both: 2·n_out·e.

    PEFT tuners/lora/dora.py `DoraLinearLayer.forward`. Without autocast each is in its own type.
    """
    if not adapter.dora:
        return 0
    n_out = adapter.out_features_per_layer(architecture.all_layers)
    compute = stream.compute.block_bytes
    return n_out * (compute + (compute if stream.autocast else adapter.dtype.block_bytes))


def _half(stream: Stream) -> bool:
    return stream.residual is not FLOAT32


def _unshared_inputs(architecture: Architecture, adapter: Adapter, *, shared: bool) -> float:
    """Input widths that need a tensor of their own: attention's output is there already.

    ``shared``: modules with the same input keep it once; otherwise each casts a copy.
    """
    layers = architecture.all_layers
    seen: set[tuple[int, str]] = set()
    total = 0.0
    for target in adapter.met:
        role = input_of(target.role)
        if role == "attention output":
            continue
        if shared:
            key = (target.in_features, role)
            if key in seen:
                continue
            seen.add(key)
        total += target.in_features * target.count / max(layers, 1)
    return total


def attention_saved(
    attention: Attention, shape: AttentionShape, kernel: str, stream: Stream
) -> int:
    """What the attention call keeps, and what the trained output projection does.

    The fused kernels keep their output, which that projection reads; eager and math do not. Where v
    is a view of a fused projection (not in eager, nor repeated), all of that is kept; rotary by
    concatenation lays q out by heads, flash and cuDNN their output likewise, and the projection
    reads a copy.
    MLA's latents come with it.
    """
    kept = saved_bytes(shape, kernel)
    if shape.repeats and shape.num_kv_heads == 1 and kernel in ("efficient", "cudnn"):
        kept -= _unrepeated_bytes(shape)
    if stream.trained and kernel in ("eager", "math"):
        kept += shape.output_bytes()
    if stream.views_fused_qkv and kernel not in ("eager", "math"):
        kept += _fused_view_bytes(shape, kernel, stream)
    if attention.kv_lora_rank is not None:
        width = attention.kv_lora_rank + (attention.q_lora_rank or 0)
        kept += shape.batch * shape.q_len * (4 + stream.residual.block_bytes) * width
    return kept


def _unrepeated_bytes(shape: AttentionShape) -> int:
    """e·B·(H − 1)·S·(D + D_v): one head of K and V is repeated by a stride of zero, no copy."""
    width = (shape.num_heads - 1) * (shape.head_dim + shape.v_head_dim)
    return shape.dtype.num_bytes(shape.batch * shape.kv_len * width)


def _fused_view_bytes(shape: AttentionShape, kernel: str, stream: Stream) -> int:
    """e·B·S·D·(H + H_kv) that v's view keeps besides v, and the output copied by tokens.

    Flash and cuDNN lay the output out as q is (native/transformers/sdp_utils.h
    `alloc_with_matching_layout`).
    """
    heads = 0 if shape.repeats else shape.num_heads + shape.num_kv_heads
    kept = shape.dtype.num_bytes(shape.batch * shape.q_len * shape.head_dim * heads)
    return kept + (shape.output_bytes() if stream.trained and kernel in ("flash", "cudnn") else 0)
