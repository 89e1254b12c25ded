"""Activations of one forward pass without backward: the largest moment inside a layer.

The moments exclude each other (attention, then MLP), so their maximum counts, never their sum.
Units: e bytes an element, h hidden size, I intermediate size, tokens = B·S.
"""

from __future__ import annotations

from typing import Final

from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.formulas.attention import AttentionShape, forward_temporary_bytes
from willfit.formulas.inference.mixers import mixer_moments
from willfit.formulas.inference.run import Moment, Pass, position_elements, stream_bytes
from willfit.scenario.model import Architecture, Attention, LayerGroup, Mlp

_PYTHON_GELU: Final = ("gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh_python")
"""Activations written out in Python: four tensors of the MLP's width are alive at once
(transformers activations.py `NewGELUActivation`)."""
_EAGER_TYPES: Final = (FLOAT16, BFLOAT16, FLOAT32)


def layer_moments(architecture: Architecture, group: LayerGroup, run: Pass) -> list[Moment]:
    """Every candidate for the peak inside one layer of this group."""
    moments = [_norm_moment(architecture, run)]
    if group.attention is not None:
        moments += _attention_moments(architecture, group.attention, run)
    if group.recurrent is not None:
        moments += mixer_moments(architecture, group.recurrent, run)
    if group.mlp is not None:
        kept = _kept_scores(group.attention, run)
        moments += [
            moment.plus(temporaries=kept) for moment in _mlp_moments(architecture, group.mlp, run)
        ]
    return moments


def _kept_scores(attention: Attention | None, run: Pass) -> int:
    """Attention weights that eager returns: the layer's frame holds them through the MLP.

    So does GPT-Neo's model those of the layer before.
    """
    if attention is None:
        return 0
    return _score_bytes(attention, run) * (2 if attention.keeps_weights else 1)


def _score_bytes(attention: Attention, run: Pass) -> int:
    """The weights of one eager call, e·B·H·S²; no other kernel returns them."""
    if run.kernel_of[attention.window] != "eager":
        return 0
    scores = run.batch * attention.num_heads * run.q_len * run.keys_in(attention.window)
    return run.dtype.num_bytes(scores)


def attention_shape(
    attention: Attention, dtype: DType, *, batch: int, q_len: int, kv_len: int, masked: bool,
    training: bool = False, autocast: bool = False, math_score_bytes: int = 9,
    always_repeats: bool = False,
) -> AttentionShape:  # fmt: skip
    """The call that a layer makes; MLA expands its latent to every head first.

    ``autocast``: it computes every softmax in float32.
    """
    latent = attention.kv_lora_rank is not None
    return AttentionShape(
        batch=batch,
        q_len=q_len,
        kv_len=kv_len,
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_heads if latent else attention.num_kv_heads,
        head_dim=attention.head_dim,
        v_head_dim=attention.v_head_dim,
        dtype=dtype,
        masked=masked,
        training=training,
        causal=attention.causal,
        softcapped=attention.softcap is not None,
        eager_score_bytes=_eager_score_bytes(attention, dtype),
        broadcasts_kv=attention.broadcasts_kv,
        math_score_bytes=math_score_bytes,
        dropout=training and attention.dropout > 0,
        softmax_in_own_type=attention.softmax_in_own_type and not autocast,
        always_repeats=always_repeats,
    )


def _eager_score_bytes(attention: Attention, dtype: DType) -> int | None:
    if attention.eager_score_bytes is None or dtype not in _EAGER_TYPES:
        return None
    return attention.eager_score_bytes[_EAGER_TYPES.index(dtype)]


def _norm_moment(architecture: Architecture, run: Pass) -> Moment:
    """RMSNorm works in float32: the copy and its product, 8·h beside the stream; LayerNorm: out."""
    hidden = run.tokens * architecture.hidden_size
    work = 8 * hidden if architecture.rms_norm and run.dtype.block_bytes < 4 else 4 * hidden
    return Moment(name="norm", activations=stream_bytes(architecture, run, 2), temporaries=work)


def _attention_moments(architecture: Architecture, attention: Attention, run: Pass) -> list[Moment]:
    """Rotary embedding (three extra query-sized tensors), then the kernel itself.

    A call of SDPA lays T5's positions out anew, for each row with a mask
    (integrations/sdpa_attention.py `create_position_bias_mask`).

    What eager attention returned before is held by the model (GPT-Neo), or by the layer, whose
    cross attention comes second.
    """
    shape = attention_shape(
        attention,
        run.dtype,
        batch=run.batch,
        q_len=run.q_len,
        kv_len=run.keys_in(attention.window),
        masked=run.masked_in(attention.window),
        autocast=run.softmax_in_float32,
        math_score_bytes=run.math_score_bytes,
        always_repeats=run.always_repeats,
    )
    e = run.dtype
    query = e.num_bytes(run.tokens * attention.num_heads * attention.head_dim)
    fresh = e.num_bytes(
        run.tokens * attention.num_kv_heads * (attention.head_dim + attention.v_head_dim)
    )
    expanded = _expanded_latent(attention, shape)
    kernel = run.kernel_of[attention.window]
    padded = kernel == "efficient" and run.q_len % 8 != 0
    copies = 0 if kernel == "eager" else (run.batch if run.masked else 1) * (2 if padded else 1)
    positions = e.num_bytes(position_elements(architecture, run) * copies)
    held = 0 if run.cached and not run.fused_qkv else fresh
    before = attention.keeps_weights or attention.cross
    weights = _score_bytes(attention, run) if before else 0
    stream = stream_bytes(architecture, run, 3)
    product = run.gemm.forward_temporary_bytes(
        run.tokens, architecture.hidden_size, attention.num_heads * attention.head_dim
    )
    output = e.num_bytes(run.tokens * attention.num_heads * attention.v_head_dim)
    adapted = [
        Moment(
            name="adapter on attention",
            activations=stream + query,
            temporaries=run.adapted("attention input"),
        ),
        Moment(
            name="adapter on attention's output",
            activations=stream + output,
            temporaries=run.adapted("attention output"),
        ),
    ]
    return [
        *(adapted if run.adapter else ()),
        Moment(name="projections", activations=stream + query + fresh, temporaries=product),
        Moment(name="rotary", activations=stream + 2 * query + fresh, temporaries=2 * query),
        Moment(
            name="attention",
            activations=stream + query + held + expanded + positions,
            temporaries=forward_temporary_bytes(shape, kernel) + weights,
        ),
    ]


def _expanded_latent(attention: Attention, shape: AttentionShape) -> int:
    """K and V of all heads that MLA rebuilds from its latent in every layer call.

    The product of the up-projection, nope + v, and the keys with their rotary part, nope + rope
    (modeling_deepseek_v3.py `expand_kv`).
    """
    if attention.kv_lora_rank is None:
        return 0
    width = 2 * shape.head_dim - attention.qk_rope_head_dim + shape.v_head_dim
    return shape.dtype.num_bytes(shape.batch * shape.kv_len * shape.num_heads * width)


def _mlp_moments(architecture: Architecture, mlp: Mlp, run: Pass) -> list[Moment]:
    if mlp.num_experts:
        return _expert_moments(architecture, mlp, run)
    return _dense_moments(
        architecture, mlp.intermediate_size, mlp.gated, run, fused=run.fused_gate_up
    )


def _dense_moments(
    architecture: Architecture,
    intermediate_size: int,
    gated: bool,
    run: Pass,
    *,
    fused: bool = False,
) -> list[Moment]:
    """Gated: activation, up and their product, 3·I beside 4·h of stream; else 2·I.

    With quantised weights the products before and after count too: one or two tensors of width I,
    and what the product needs.
    """
    e, tokens = run.dtype, run.tokens
    width = tokens * intermediate_size
    hidden = architecture.hidden_size
    stream = stream_bytes(architecture, run, 4)
    up = run.gemm.forward_temporary_bytes(tokens, hidden, intermediate_size)
    down = run.gemm.forward_temporary_bytes(tokens, intermediate_size, hidden)
    tensors = (4 if fused else 3) if gated else _activation_tensors(architecture.hidden_act)
    return [
        *([_widened(architecture, intermediate_size, run)] if run.widens_down else ()),
        Moment(name="MLP", activations=stream + e.num_bytes(tensors * width), temporaries=0),
        Moment(
            name="MLP up",
            activations=stream + e.num_bytes((2 if gated else 1) * width),
            temporaries=max(up, run.adapted("MLP input")),
        ),
        Moment(
            name="MLP down",
            activations=stream + e.num_bytes(width + tokens * hidden),
            temporaries=max(down, run.adapted("product")),
        ),
    ]


def _widened(architecture: Architecture, intermediate_size: int, run: Pass) -> Moment:
    """T5's activated width and its float32 copy for ``wo``, (e + 4)·I, which float16 leaves so.

    What it gives is added to the stream, which is float32 from then on.
    """
    e, hidden = run.dtype.block_bytes, architecture.hidden_size
    wider = run.tokens * (2 * (4 - e) * hidden + (e + 4) * intermediate_size)
    stream = stream_bytes(architecture, run, 4)
    return Moment(name="MLP widened", activations=stream + wider, temporaries=0)


def _activation_tensors(hidden_act: str) -> int:
    if hidden_act == "bloom":  # modeling_bloom.py `bloom_gelu_forward`, one line of products
        return 5
    return 4 if hidden_act in _PYTHON_GELU else 2


def _expert_moments(architecture: Architecture, mlp: Mlp, run: Pass) -> list[Moment]:
    """Grouped experts: every token k times, gate and up fused.

    transformers 5.23 integrations/moe.py `grouped_mm_experts_forward`: the gathered input k·h, the
    fused product 2·k·I, the activated k·I; then input, output, its weighted copy and that copy in
    the old order, 4·k·h, the copies in the routing weights' type. Decoding takes
    `batched_mm_experts_forward`: the selected weights, 2·I·h and I·h for each of the B·k pairs, of
    which both are alive when the second is made.
    """
    e, tokens = run.dtype, run.tokens
    pairs = tokens * mlp.experts_per_token
    hidden, width = architecture.hidden_size, mlp.intermediate_size
    stream = stream_bytes(architecture, run, 4)
    fused = (2 if mlp.gated else 1) * width
    weighted = FLOAT32 if run.weighs_in_float32 else e
    moments = [
        Moment(
            name="experts up",
            activations=stream + e.num_bytes(pairs * (hidden + fused + 2 * width)),
            temporaries=0,
        ),
        Moment(
            name="experts down",
            activations=stream + e.num_bytes(2 * pairs * hidden),
            temporaries=weighted.num_bytes(2 * pairs * hidden),
        ),
    ]
    if run.copies_experts:
        moments.append(
            Moment(
                name="experts copied",
                activations=stream + e.num_bytes(pairs * (hidden + width)),
                temporaries=e.num_bytes(pairs * hidden * (fused + width)),
            )
        )
    if mlp.shared_intermediate_size:
        moments += _dense_moments(architecture, mlp.shared_intermediate_size, mlp.gated, run)
    return moments
