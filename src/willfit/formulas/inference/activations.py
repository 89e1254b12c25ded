"""Activations of one forward pass without backward: the largest moment inside a layer.

The moments exclude each other (attention, then MLP), so their maximum counts, never their sum.
Units: e bytes an element, h hidden size, I intermediate size, tokens = B·S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.attention import AttentionShape, forward_temporary_bytes
from willfit.formulas.gemm import Gemm
from willfit.scenario.model import Architecture, Attention, LayerGroup, Mlp, Recurrent

_PYTHON_GELU: Final = ("gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh_python")
"""Activations written out in Python: four tensors of the MLP's width are alive at once
(transformers activations.py `NewGELUActivation`)."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Bytes alive at one point of a layer, by what they are."""

    name: str
    activations: int
    temporaries: int

    @property
    def total(self) -> int:
        """Sum of both."""
        return self.activations + self.temporaries

    def plus(self, *, activations: int = 0, temporaries: int = 0) -> Moment:
        """The moment with so many bytes more."""
        if not activations and not temporaries:
            return self
        return Moment(
            name=self.name,
            activations=self.activations + activations,
            temporaries=self.temporaries + temporaries,
        )


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass over ``q_len`` new tokens with ``kv_len`` in the cache afterwards."""

    batch: int
    q_len: int
    kv_len: int
    masked: bool
    gemm: Gemm
    kernel_of: Mapping[int | None, str] = field(default_factory=dict)
    """Kernel by window (None for full attention)."""
    fused_qkv: bool = False
    """Whether queries, keys and values are views of one product, which then stays alive."""
    fused_gate_up: bool = False
    """The same of gate and up."""
    cached: bool = True
    """Whether K and V live in the cache rather than in the layer."""
    copies_experts: bool = False
    """Whether the weights of every token's experts are copied side by side."""
    weighs_in_float32: bool = False
    """Whether the routing weights are float32, and experts' outputs times them."""
    math_score_bytes: int = 9
    """Bytes per score inside SDPA's math kernel, by torch's release."""
    always_repeats: bool = False
    """Whether the release of transformers repeats K and V without a mask too."""
    adapter: Mapping[str, int] = field(default_factory=dict)
    """Temporary bytes a token of an adapted product, by what its input is."""

    def adapted(self, kind: str) -> int:
        """What adapters of such products need besides the product."""
        return self.tokens * self.adapter.get(kind, 0)

    def masked_in(self, window: int | None) -> bool:
        """Whether layers of such a window get a mask: of padding or pieces, or of the window.

        masking_utils.py `_ignore_causal_mask_sdpa`: never skipped where there are as many keys as
        the window is long.
        """
        return self.masked or (
            window is not None and self.q_len > 1 and self.keys_in(window) >= window
        )

    def keys_in(self, window: int | None) -> int:
        """Keys that a call sees: a sliding layer those of its window before the new ones."""
        return self.kv_len if window is None else min(self.kv_len, window - 1 + self.q_len)

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return self.batch * self.q_len

    @property
    def dtype(self) -> DType:
        """Working type of the activations."""
        return self.gemm.dtype


def layer_moments(architecture: Architecture, group: LayerGroup, run: Pass) -> list[Moment]:
    """Every candidate for the peak inside one layer of this group."""
    moments = [_norm_moment(architecture, run)]
    if group.attention is not None:
        moments += _attention_moments(architecture, group.attention, run)
    if group.recurrent is not None:
        moments.append(_recurrent_moment(architecture, group.recurrent, run))
    if group.mlp is not None:
        kept = _kept_scores(group.attention, run)
        moments += [
            moment.plus(temporaries=kept) for moment in _mlp_moments(architecture, group.mlp, run)
        ]
    return moments


def _kept_scores(attention: Attention | None, run: Pass) -> int:
    """Attention weights that eager returns: the layer's frame holds them through the MLP."""
    if attention is None or run.kernel_of[attention.window] != "eager":
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
        eager_score_bytes=attention.eager_score_bytes,
        broadcasts_kv=attention.broadcasts_kv,
        math_score_bytes=math_score_bytes,
        dropout=training and attention.dropout > 0,
        softmax_in_own_type=attention.softmax_in_own_type and not autocast,
        always_repeats=always_repeats,
    )


def _stream(architecture: Architecture, run: Pass, copies: int) -> int:
    """``copies`` of the residual stream: input embeddings, layer input, residual, norm output."""
    hidden = architecture.hidden_size
    extra = 0
    if architecture.learned_positions:
        extra = run.tokens * hidden + run.q_len * hidden
    extra += _position_elements(architecture, run)
    copies -= 1 if architecture.post_norm and copies > 2 else 0
    rotary = 0 if architecture.learned_positions else 2 * run.q_len * _head_dim(architecture)
    return run.dtype.num_bytes(copies * run.tokens * hidden + extra + rotary)


def _position_elements(architecture: Architecture, run: Pass) -> int:
    """T5's positions by heads, H·S², which all layers share; a call of SDPA lays them out anew.

    integrations/sdpa_attention.py `create_position_bias_mask`.
    """
    if not architecture.relative_bias or "eager" in run.kernel_of.values():
        return 0
    heads = next((g.attention.num_heads for g in architecture.layers if g.attention), 0)
    return heads * run.q_len**2


def _head_dim(architecture: Architecture) -> int:
    """Width of cos and sin, which live through all layers: the head size of the first attention."""
    first = (g.attention.head_dim for g in architecture.layers if g.attention is not None)
    return next(first, 0) if architecture.rms_norm else 0


def _norm_moment(architecture: Architecture, run: Pass) -> Moment:
    """RMSNorm works in float32: the copy and its product, 8·h beside the stream; LayerNorm: out."""
    hidden = run.tokens * architecture.hidden_size
    work = 8 * hidden if architecture.rms_norm and run.dtype.block_bytes < 4 else 4 * hidden
    return Moment(name="norm", activations=_stream(architecture, run, 2), temporaries=work)


def _attention_moments(architecture: Architecture, attention: Attention, run: Pass) -> list[Moment]:
    """Rotary embedding (three extra query-sized tensors), then the kernel itself."""
    shape = attention_shape(
        attention,
        run.dtype,
        batch=run.batch,
        q_len=run.q_len,
        kv_len=run.keys_in(attention.window),
        masked=run.masked_in(attention.window),
        math_score_bytes=run.math_score_bytes,
        always_repeats=run.always_repeats,
    )
    e = run.dtype
    query = e.num_bytes(run.tokens * attention.num_heads * attention.head_dim)
    fresh = e.num_bytes(
        run.tokens * attention.num_kv_heads * (attention.head_dim + attention.v_head_dim)
    )
    expanded = _expanded_latent(attention, shape)
    padded = run.kernel_of[attention.window] == "efficient" and run.q_len % 8 != 0
    positions = e.num_bytes(_position_elements(architecture, run) * (2 if padded else 1))
    held = 0 if run.cached and not run.fused_qkv else fresh
    kernel = run.kernel_of[attention.window]
    stream = _stream(architecture, run, 3)
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
            temporaries=forward_temporary_bytes(shape, kernel),
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


def _recurrent_moment(architecture: Architecture, recurrent: Recurrent, run: Pass) -> Moment:
    """Projections of a state-space mixer: input, gate, convolution, output of the inner width.

    Mamba-1 without mamba-ssm's kernels: exp(A·Δ), B·Δ and its product with the input, 3·4·D·N bytes
    a token (modeling_mamba.py `slow_forward`).
    """
    inner = run.dtype.num_bytes(4 * run.tokens * recurrent.inner_size)
    scan = 3 * FLOAT32.num_bytes(run.tokens * recurrent.state_elements) if recurrent.scanned else 0
    return Moment(
        name="state space", activations=_stream(architecture, run, 3) + inner, temporaries=scan
    )


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
    stream = _stream(architecture, run, 4)
    up = run.gemm.forward_temporary_bytes(tokens, hidden, intermediate_size)
    down = run.gemm.forward_temporary_bytes(tokens, intermediate_size, hidden)
    tensors = (4 if fused else 3) if gated else _activation_tensors(architecture.hidden_act)
    return [
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
    stream = _stream(architecture, run, 4)
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
