"""Decoders of the Llama kind: pre-norm, separate or fused projections, dense or expert MLPs.

Everything follows from shape fields; what only the class knows (which projections have a bias,
which norms there are) is a `Style` by model type, and an assumption where the type is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from willfit.errors import UnsupportedError
from willfit.scenario.model import Unknown
from willfit.sources.architecture.fields import Fields
from willfit.sources.architecture.layers import (
    default_kv_heads,
    head_dim_of,
    is_sparse,
    layer_kinds,
    mlp_width,
)
from willfit.sources.architecture.traits import Traits, traits_of
from willfit.sources.tables.table import Builder, Table, indices


@dataclass(frozen=True, kw_only=True)
class Style:
    """What a class decides beyond its config; the defaults are Llama's."""

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    norm_weight: bool = True
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    head_norm: str = "head"
    """q and k norms: one vector per ``head``, or over the whole ``projection``."""
    fused_qkv: bool = False
    fused_gate_up: bool = False
    head_bias: bool = False
    experts_bias: bool = False
    router: str = "gate"
    router_bias: bool = False
    tied: bool = False
    """Default of tie_word_embeddings where the config is silent."""
    correction_bias: bool = False
    """A buffer of one float per expert in the router (DeepSeek-V3)."""
    embed_scale: bool = False
    sinks: bool = False
    """One learned sink logit per head (gpt-oss)."""
    shared_gate: bool = False
    """A gate of one output for the shared expert (Qwen-MoE)."""


_GEMMA2_NORMS: Final = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)  # fmt: skip

STYLES: Final[dict[str, Style]] = {
    "llama": Style(),
    "mistral": Style(),
    "ministral": Style(),
    "mixtral": Style(),
    "qwen2": Style(qkv_bias=True),
    "qwen2_moe": Style(qkv_bias=True, shared_gate=True),
    "qwen3": Style(),
    "qwen3_moe": Style(),
    "gemma": Style(tied=True, embed_scale=True),
    "gemma2": Style(norms=_GEMMA2_NORMS, tied=True, embed_scale=True),
    "gemma3_text": Style(norms=_GEMMA2_NORMS, tied=True, embed_scale=True),
    "phi3": Style(fused_qkv=True, fused_gate_up=True),
    "olmo": Style(norm_weight=False),
    "olmo2": Style(
        norms=("post_attention_layernorm", "post_feedforward_layernorm"), head_norm="projection"
    ),
    "olmo3": Style(
        norms=("post_attention_layernorm", "post_feedforward_layernorm"), head_norm="projection"
    ),
    "olmoe": Style(head_norm="projection"),
    "exaone4": Style(norms=("post_attention_layernorm", "post_feedforward_layernorm")),
    "granite": Style(),
    "smollm3": Style(tied=True),
    "seed_oss": Style(),
    "stablelm": Style(norm_bias=True),
    "starcoder2": Style(qkv_bias=True, output_bias=True, mlp_bias=True, norm_bias=True, tied=True),
    "nemotron": Style(norm_bias=True),
    "cohere": Style(norms=("input_layernorm",), tied=True),
    "cohere2": Style(norms=("input_layernorm",), tied=True),
    "glm": Style(fused_gate_up=True),
    "glm4": Style(
        fused_gate_up=True,
        norms=(
            "input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm",
            "post_mlp_layernorm",
        ),
    ),
    "gpt_oss": Style(qkv_bias=True, output_bias=True, experts_bias=True, router="router",
                     router_bias=True, sinks=True),
    "deepseek_v2": Style(),
    "deepseek_v3": Style(correction_bias=True),
    "glm4_moe": Style(correction_bias=True),
    "minimax_m2": Style(correction_bias=True, head_norm="projection"),
}  # fmt: skip
"""Styles by model type (modelling files of transformers 5.23)."""

_PLAIN: Final = Style()


def decoder_table(config: Mapping[str, Any]) -> Table:
    """The table of a Llama-like decoder; raises `UnsupportedError` for mixers of another kind."""
    fields = Fields(config)
    traits = traits_of(fields)
    model_type = fields.text("model_type")
    style = _with_fields(STYLES.get(model_type, _PLAIN), fields)
    layers = _Layers(fields, traits, style)
    built = layers.build()
    known = model_type in STYLES
    return replace(
        built,
        assumptions=()
        if known
        else (f"{model_type or 'this model'} is built like Llama, from its shape fields",),
        unknowns=() if known else layers.unknowns(),
    )


def _with_fields(style: Style, fields: Fields) -> Style:
    """The config's own flags over the style's."""
    changes: dict[str, Any] = {}
    if "attention_bias" in fields.config:
        flag = fields.flag("attention_bias")
        changes["qkv_bias"] = flag
        changes["output_bias"] = flag and fields.text("model_type") not in _QKV_ONLY
    for name in ("use_qkv_bias", "qkv_bias"):
        if name in fields.config:
            changes["qkv_bias"] = fields.flag(name)
    if "attention_out_bias" in fields.config:
        changes["output_bias"] = fields.flag("attention_out_bias")
    if "use_bias" in fields.config:
        flag = fields.flag("use_bias")
        changes.update(qkv_bias=flag, output_bias=flag, mlp_bias=flag)
    if "mlp_bias" in fields.config:
        changes["mlp_bias"] = fields.flag("mlp_bias")
    return replace(style, **changes)


_QKV_ONLY: Final = ("glm", "glm4", "glm4_moe", "qwen2", "stablelm")
"""Types whose attention_bias leaves the output projection without one."""


class _Layers:
    """One table: embeddings, layers, final norm, head."""

    def __init__(self, fields: Fields, traits: Traits, style: Style) -> None:
        self.fields, self.traits, self.style = fields, traits, style
        self.h = fields.need("hidden_size")
        self.num_layers = fields.need("num_layers")
        self.vocab = fields.need("vocab_size")
        self.heads = fields.need("num_heads")
        self.kv_heads = fields.size("num_key_value_heads") or default_kv_heads(
            fields, traits, self.heads
        )
        self.head_dim = head_dim_of(fields, traits, self.h, self.heads)
        self.rank = fields.size("kv_lora_rank") or 0
        self.out = Builder()

    def build(self) -> Table:
        kinds = set(layer_kinds(self.fields, self.traits, self.num_layers))
        if not kinds <= {"full", "sliding", "chunked"}:
            raise UnsupportedError(
                f"layers of kind {', '.join(sorted(kinds - {'full', 'sliding', 'chunked'}))} have "
                "no table without their class: pip install 'willfit[trace]' builds the real one"
            )
        out, h = self.out, self.h
        out.weight("model.embed_tokens.weight", (self.vocab, h), "Embedding")
        if self.style.embed_scale:
            out.buffer("model.embed_tokens.embed_scale", ())
        every = indices(range(self.num_layers))
        self._attention(f"model.layers.{every}.self_attn")
        self._mlps()
        parallel = self.fields.flag("use_parallel_residual")  # StableLM-12B: one norm feeds both
        for norm in self.style.norms[:1] if parallel else self.style.norms:
            self._norm(f"model.layers.{every}.{norm}", h)
        self._norm("model.norm", h)
        self._rotary()
        self._head()
        names = self.fields.items("architectures") or ["CausalLM"]
        return Table(
            model_class=str(names[0]),
            rows=tuple(out.rows),
            no_split=(f"model.layers.{every}",),
        )

    def _norm(self, name: str, width: int) -> None:
        if self.style.norm_weight:
            self.out.norm(name, width, bias=self.style.norm_bias)

    def _attention(self, path: str) -> None:
        if self.rank:
            self._latent_attention(path)
            return
        out, style, h, d = self.out, self.style, self.h, self.head_dim
        q, kv = self.heads * d, self.kv_heads * d
        if style.fused_qkv:
            out.linear(f"{path}.qkv_proj", q + 2 * kv, h, bias=style.qkv_bias)
        else:
            for name, width in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
                out.linear(f"{path}.{name}", width, h, bias=style.qkv_bias)
        out.linear(f"{path}.o_proj", h, q, bias=style.output_bias)
        if style.sinks:
            out.weight(f"{path}.sinks", (self.heads,), "Attention")
        if self.fields.flag("qk_layernorm"):  # StableLM: one norm per head, each its own module
            for name, heads in (("q", self.heads), ("k", self.kv_heads)):
                out.weight(f"{path}.{name}_layernorm.norms.{{0-{heads - 1}}}.weight", (d,), "Norm")
        elif self._has_head_norms():
            whole = style.head_norm == "projection"
            out.norm(f"{path}.q_norm", q if whole else d, bias=False)
            out.norm(f"{path}.k_norm", kv if whole else d, bias=False)

    def _has_head_norms(self) -> bool:
        if "use_qk_norm" in self.fields.config:
            return self.fields.flag("use_qk_norm")
        return self.traits.qk_norm

    def _latent_attention(self, path: str) -> None:
        """MLA: queries through their own latent where q_lora_rank is given."""
        out, h, fields = self.out, self.h, self.fields
        nope = fields.size("qk_nope_head_dim", 128) or 0
        rope = fields.size("qk_rope_head_dim", 64) or 0
        v = fields.size("v_head_dim", 128) or 0
        bias = fields.flag("attention_bias")
        query = self.heads * (nope + rope)
        q_rank = fields.size("q_lora_rank")
        if q_rank:
            out.linear(f"{path}.q_a_proj", q_rank, h, bias=bias)
            out.norm(f"{path}.q_a_layernorm", q_rank, bias=False)
            out.linear(f"{path}.q_b_proj", query, q_rank)
        else:
            out.linear(f"{path}.q_proj", query, h)
        out.linear(f"{path}.kv_a_proj_with_mqa", self.rank + rope, h, bias=bias)
        out.norm(f"{path}.kv_a_layernorm", self.rank, bias=False)
        out.linear(f"{path}.kv_b_proj", self.heads * (nope + v), self.rank)
        out.linear(f"{path}.o_proj", h, self.heads * v, bias=bias)

    def _mlps(self) -> None:
        """Dense layers and expert layers, by width."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for index in range(self.num_layers):
            sparse = is_sparse(self.fields, index)
            width = mlp_width(self.fields, index, self.h, sparse)
            groups.setdefault((sparse, width), []).append(index)
        for (sparse, width), layers in groups.items():
            path = f"model.layers.{indices(layers)}.mlp"
            if sparse:
                self._experts(path, width)
            else:
                self._dense(path, width, bias=self.style.mlp_bias)

    def _dense(self, path: str, width: int, *, bias: bool) -> None:
        out, h = self.out, self.h
        if not self.traits.gated:
            first, second = ("c_fc", "c_proj") if bias else ("up_proj", "down_proj")
            out.linear(f"{path}.{first}", width, h, bias=bias)
            out.linear(f"{path}.{second}", h, width, bias=bias)
            return
        if self.style.fused_gate_up:
            out.linear(f"{path}.gate_up_proj", 2 * width, h, bias=bias)
        else:
            out.linear(f"{path}.gate_proj", width, h, bias=bias)
            out.linear(f"{path}.up_proj", width, h, bias=bias)
        out.linear(f"{path}.down_proj", h, width, bias=bias)

    def _experts(self, path: str, width: int) -> None:
        """Fused experts: gate_up (E, 2·I, h), down (E, h, I), a router, perhaps a shared one."""
        out, h, fields = self.out, self.h, self.fields
        experts = fields.need("num_experts")
        out.weight(f"{path}.experts.gate_up_proj", (experts, 2 * width, h), "Experts")
        out.weight(f"{path}.experts.down_proj", (experts, h, width), "Experts")
        if self.style.experts_bias:
            out.weight(f"{path}.experts.gate_up_proj_bias", (experts, 2 * width), "Experts")
            out.weight(f"{path}.experts.down_proj_bias", (experts, h), "Experts")
        router = f"{path}.{self.style.router}"
        out.weight(f"{router}.weight", (experts, h), "Router")
        if self.style.router_bias:
            out.weight(f"{router}.bias", (experts,), "Router")
        if self.style.correction_bias:
            out.buffer(f"{router}.e_score_correction_bias", (experts,))
        shared = fields.size("shared_expert_intermediate_size") or (
            (fields.size("n_shared_experts") or 0) * width
        )
        if shared:
            name = "shared_expert" if self.style.shared_gate else "shared_experts"
            self._dense(f"{path}.{name}", shared, bias=False)
            if self.style.shared_gate:
                out.linear(f"{path}.shared_expert_gate", 1, h)

    def _rotary(self) -> None:
        width = self.fields.size("qk_rope_head_dim") if self.rank else self.head_dim
        factor = self.fields.number("partial_rotary_factor") or 1.0
        half = int((width or 0) * factor) // 2
        for name in ("inv_freq", "original_inv_freq"):
            self.out.buffer(f"model.rotary_emb.{name}", (half,), module="RotaryEmbedding")

    def _head(self) -> None:
        tied = self.fields.flag("tie_word_embeddings", self.style.tied)
        embedding = "model.embed_tokens.weight"
        self.out.weight(
            "lm_head.weight", (self.vocab, self.h), "Linear", tied_to=embedding if tied else None
        )
        if self.fields.flag("lm_head_bias", self.style.head_bias):
            self.out.weight("lm_head.bias", (self.vocab,), "Linear")

    def unknowns(self) -> tuple[Unknown, ...]:
        """Biases that the config does not mention: at most one vector per projection."""
        if "attention_bias" in self.fields.config:
            return ()
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        return (
            Unknown(
                name="biases of q, k and v, which the config does not mention",
                low_bytes=0,
                high_bytes=4 * self.num_layers * width,
            ),
        )
