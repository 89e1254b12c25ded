"""Which layers a decoder has: attention kind, window, experts, by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from willfit.errors import InputError
from willfit.scenario.model import Attention, LayerGroup, Mlp, Recurrent
from willfit.sources.architecture import recurrent
from willfit.sources.architecture.fields import Fields
from willfit.sources.architecture.traits import Traits
from willfit.units import round_up

_NAMES: Final = {
    "full_attention": "full", "attention": "full", "global": "full", "hybrid": "hybrid",
    "indexed_attention": "full", "deepseek_sparse_attention": "full",
    "sliding_attention": "sliding", "local": "sliding",
    "chunked_attention": "chunked", "linear_attention": "linear", "mamba": "linear",
    "conv": "conv", "moe": "none", "mlp": "none",
}  # fmt: skip
"""Layer types of transformers 5.23 by the kind they are to the formulas."""

_SHARED_EXPERT: Final = (
    "shared_expert_intermediate_size", "shared_intermediate_size",
    "moe_shared_expert_intermediate_size",
)  # fmt: skip
"""Names of the inner width of an expert that every token passes."""
_PATTERN: Final = {"M": "linear", "*": "full", "-": "none", "E": "none"}
"""Letters of Nemotron-H's ``hybrid_override_pattern``."""


_Key = tuple[str, bool, bool, int, bool]
"""What tells layers apart: kind, sparse MLP, shared cache, MLP width, an indexer of its own."""


def layer_groups(fields: Fields, traits: Traits, hidden_size: int) -> tuple[LayerGroup, ...]:
    """Equal layers counted together, from the config's own list or the library's default rule."""
    num_layers = fields.need("num_layers")
    kinds = layer_kinds(fields, traits, num_layers)
    counts: dict[_Key, int] = {}
    shared_from = num_layers - (fields.size("num_kv_shared_layers") or 0)
    crossing = fields.items("cross_attention_layers") or []  # Mllama: they see the image alone
    for index, own_kind in enumerate(kinds):
        kind = "cross" if index in crossing else own_kind
        sparse = is_sparse(fields, index)
        width = mlp_width(fields, index, hidden_size, sparse)
        key = (kind, sparse, index >= shared_from, width, _indexes(fields, index))
        counts[key] = counts.get(key, 0) + 1
    return tuple(_group(fields, traits, hidden_size, key, count) for key, count in counts.items())


def _indexes(fields: Fields, index: int) -> bool:
    """Whether a sparse-attention layer caches its own indexer keys (GLM-5's others share one).

    Rule of GlmMoeDsaConfig: the listed types, else a pattern, else every n-th after an offset.
    """
    listed = fields.items("indexer_types") or fields.items("index_topk_pattern")
    if listed is not None and index < len(listed):
        return str(listed[index]) == "full"
    pattern = fields.text("index_topk_pattern")
    if index < len(pattern):
        return pattern[index] == "F"
    every = max(fields.size("index_topk_freq", 1) or 1, 1)
    return max(index - (fields.size("index_skip_topk_offset", 2) or 0) + 1, 0) % every == 0


def layer_kinds(fields: Fields, traits: Traits, num_layers: int) -> list[str]:
    """``full``, ``sliding``, ``chunked``, ``linear``, ``conv``, ``hybrid`` or ``none`` by layer."""
    listed = fields.items("layer_types") or fields.items("layers_block_type")
    if listed is not None:
        return _listed(listed, num_layers)
    sliding = fields.items("hybrid_layer_pattern")  # MiMo-V2: 1 is a sliding layer
    if sliding is not None:
        return ["sliding" if item == 1 else "full" for item in sliding[:num_layers]]
    pattern = fields.text("hybrid_override_pattern")
    if pattern:
        return [_PATTERN.get(letter, "full") for letter in pattern[:num_layers]]
    by_period = _periodic(fields, num_layers)
    if by_period is not None:
        return by_period
    if fields.size("attention_chunk_size"):
        return ["full" if (i + 1) % 4 == 0 else "chunked" for i in range(num_layers)]
    return _windowed(fields, traits, num_layers)


def _listed(listed: list[object], num_layers: int) -> list[str]:
    kinds = [_NAMES.get(str(name), "") for name in listed[:num_layers]]
    if "" in kinds:
        unknown = listed[kinds.index("")]
        raise InputError(
            f"layer type {str(unknown)[:40]!r} is not known: expected one of {', '.join(_NAMES)}"
        )
    return kinds + [kinds[-1]] * (num_layers - len(kinds)) if kinds else []


def _periodic(fields: Fields, num_layers: int) -> list[str] | None:
    """Hybrids that say where attention is: Jamba, Qwen3-Next, LFM2, pure state-space models."""
    period = fields.size("attn_layer_period")
    if period:
        offset = fields.size("attn_layer_offset") or 0
        return ["full" if i % period == offset else "linear" for i in range(num_layers)]
    interval = fields.size("full_attention_interval")
    if interval or fields.size("linear_num_value_heads"):
        return ["linear" if (i + 1) % (interval or 4) else "full" for i in range(num_layers)]
    indices = fields.items("full_attn_idxs")
    if indices is not None:
        return ["full" if i in indices else "conv" for i in range(num_layers)]
    if fields.size("mamba_d_ssm") or fields.text("model_type") == "falcon_h1":
        return ["hybrid"] * num_layers
    if fields.size("state_size") and not fields.size("num_attention_heads"):
        return ["linear"] * num_layers
    return None


def _windowed(fields: Fields, traits: Traits, num_layers: int) -> list[str]:
    """Full and sliding layers by the configuration classes' default rules."""
    window = window_of(fields, traits)
    if window is None:
        return ["full"] * num_layers
    every = _full_every(fields, traits)
    if every:
        offset = 0 if fields.text("model_type") == "modernbert" else 1
        return ["sliding" if (i + offset) % every else "full" for i in range(num_layers)]
    first = fields.size("max_window_layers") if fields.flag("use_sliding_window") else 0
    first = 0 if first is None or fields.text("model_type") == "qwen3_moe" else first
    return ["sliding" if i >= first else "full" for i in range(num_layers)]


def _full_every(fields: Fields, traits: Traits) -> int | None:
    for name in ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers"):
        value = fields.config.get(name)
        if isinstance(value, str):
            return len(value)
        if value:
            return fields.size(name)
    return traits.full_every


def window_of(fields: Fields, traits: Traits) -> int | None:
    """The sliding window in tokens; None where attention is full."""
    if fields.config.get("use_sliding_window") is False:
        return None
    if "use_sliding_window" not in fields.config and fields.text("model_type") in (
        "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen2_vl_text", "qwen2_5_vl_text", "smollm3",
    ):  # fmt: skip
        return None  # these configuration classes default use_sliding_window to False
    previous = fields.size("sliding_window_size")  # previous tokens, the query not among them
    if previous:
        return previous + 1
    if "sliding_window" in fields.config and fields.config["sliding_window"] is None:
        return None
    return fields.size("sliding_window", fields.size("local_attention", traits.window)) or None


def is_sparse(fields: Fields, index: int) -> bool:
    """Whether this layer's MLP is a mixture of experts."""
    letter = _letter(fields, index)
    if letter:
        return letter == "E"
    if not (fields.size("num_experts") or 0) > 1:
        return False
    listed = fields.items("mlp_layer_types")
    if listed is not None and index < len(listed):
        return str(listed[index]) not in ("dense", "mlp")
    only = fields.items("mlp_only_layers") or []
    if index in only or index < (fields.size("first_k_dense_replace") or 0):
        return False
    frequency = fields.config.get("moe_layer_freq")
    if isinstance(frequency, (list, tuple)) and index < len(frequency):
        return bool(frequency[index])
    period = fields.size("expert_layer_period")
    if period:
        return index % period == (fields.size("expert_layer_offset") or 0)
    step = fields.size("decoder_sparse_step", fields.size("interleave_moe_layer_step", 1)) or 1
    return (index + 1) % step == 0


def mlp_width(fields: Fields, index: int, hidden_size: int, sparse: bool) -> int:
    """Inner width of this layer's MLP, or of one of its experts; 0 where it has none."""
    if _letter(fields, index) in ("M", "*"):
        return 0
    if sparse:
        return fields.size("moe_intermediate_size") or _dense_width(fields, index, hidden_size)
    if fields.size("intermediate_size_mlp"):  # Llama-4's dense layers
        return fields.need("intermediate_size_mlp")
    return _dense_width(fields, index, hidden_size)


def _letter(fields: Fields, index: int) -> str:
    """A layer's letter in Nemotron-H's pattern; empty where a config has none."""
    return fields.text("hybrid_override_pattern")[index : index + 1]


def _dense_width(fields: Fields, index: int, hidden_size: int) -> int:
    listed = fields.items("intermediate_size")
    if listed:
        return Fields({"n": listed[min(index, len(listed) - 1)]}).size("n") or 0
    if fields.size("block_ff_dim"):
        return _adjusted_width(fields)
    nested = fields.nested("ffn_config").size("ffn_hidden_size")
    ratio = fields.size("expansion_ratio") or 4
    return nested or fields.size("intermediate_size") or ratio * hidden_size


def _adjusted_width(fields: Fields) -> int:
    """LFM2's two thirds of the stated width, in whole blocks (modeling_lfm2.py `Lfm2MLP`)."""
    width = fields.need("block_ff_dim")
    if not fields.flag("block_auto_adjust_ff_dim", default=True):
        return width
    scaled = int((fields.number("block_ffn_dim_multiplier") or 1.0) * int(2 * width / 3))
    return round_up(scaled, fields.size("block_multiple_of", 256) or 256)


def _group(fields: Fields, traits: Traits, hidden_size: int, key: _Key, count: int) -> LayerGroup:
    kind, sparse, shared, width, indexes = key
    mixer: Recurrent | None = None
    if kind in ("linear", "hybrid"):
        mixer = _linear(fields, hidden_size)
    elif kind == "conv":
        mixer = recurrent.short_convolution(fields, hidden_size)
    attends = kind in ("full", "sliding", "chunked", "hybrid", "cross")
    softmax = attention(fields, traits, hidden_size, kind) if attends else None
    if softmax is not None and softmax.indexer_dim and not indexes:
        softmax = replace(softmax, indexer_dim=0)
    return LayerGroup(
        count=count,
        attention=softmax,
        recurrent=mixer,
        mlp=_mlp(fields, traits, width, sparse),
        shares_cache=(shared and attends) or kind == "cross",
    )


def _linear(fields: Fields, hidden_size: int) -> Recurrent:
    if fields.size("linear_num_value_heads") or fields.text("model_type") == "qwen3_next":
        return recurrent.gated_delta_net(fields)
    if any(fields.size(n) for n in ("mamba_n_heads", "mamba_num_heads", "mamba_d_ssm")) or (
        fields.text("model_type") in ("mamba2", "granitemoehybrid", "nemotron_h", "falcon_h1")
    ):
        return recurrent.mamba2(fields)
    if fields.text("model_type") == "minimax":
        heads = fields.need("num_heads")
        return recurrent.lightning(heads, fields.size("head_dim") or hidden_size // heads)
    return recurrent.mamba(fields, hidden_size)


def _mlp(fields: Fields, traits: Traits, width: int, sparse: bool) -> Mlp | None:
    if not width:
        return None
    if not sparse:
        return Mlp(intermediate_size=width, gated=_gated(fields, traits))
    shared = next(filter(None, map(fields.size, _SHARED_EXPERT)), None)
    if not shared:
        shared = (fields.size("n_shared_experts") or 0) * width
    return Mlp(
        intermediate_size=width,
        gated=_gated(fields, traits),
        num_experts=fields.size("num_experts") or 0,
        experts_per_token=fields.size("experts_per_token")
        or fields.nested("ffn_config").size("moe_top_k")
        or 2,
        shared_intermediate_size=shared,
    )


def _gated(fields: Fields, traits: Traits) -> bool:
    activation = fields.text("hidden_act")
    if activation.startswith("gated"):
        return True
    if "is_gated_act" in fields.config:
        return fields.flag("is_gated_act")
    return traits.gated


def attention(fields: Fields, traits: Traits, hidden_size: int, kind: str) -> Attention:
    """The attention of a layer of this kind."""
    heads = fields.need("num_heads")
    head_dim = head_dim_of(fields, traits, hidden_size, heads)
    window = None
    if kind == "sliding":
        window = window_of(fields, traits) or traits.window
    elif kind == "chunked":
        window = fields.size("attention_chunk_size")
    rank = fields.size("kv_lora_rank")
    if rank:
        nope = fields.size("qk_nope_head_dim", 128) or 0
        rope = fields.size("qk_rope_head_dim", 64) or 0
        return Attention(
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=nope + rope,
            v_head_dim=fields.size("v_head_dim", 128) or 128,
            kv_lora_rank=rank,
            qk_rope_head_dim=rope,
            q_lora_rank=fields.size("q_lora_rank"),
            indexer_dim=fields.size("index_head_dim") or 0,
        )
    return Attention(
        num_heads=heads,
        num_kv_heads=_num_kv_heads(fields, traits, heads, kind),
        head_dim=_head_dim_of_kind(fields, head_dim, kind),
        v_head_dim=fields.size("v_head_dim") or _head_dim_of_kind(fields, head_dim, kind),
        window=window,
        chunked=kind == "chunked",
        qk_norm=traits.qk_norm
        or any(fields.flag(n) for n in ("use_qk_norm", "qk_layernorm", "qk_norm")),
        softcap=fields.number("attn_logit_softcapping"),
        causal=traits.decoder,
        eager_score_bytes=traits.eager_score_bytes,
        broadcasts_kv=traits.broadcasts_kv,
        dropout=attention_dropout(fields, traits),
        softmax_in_own_type=traits.softmax_in_own_type,
        keeps_weights=traits.keeps_weights,
        cross=kind == "cross",
    )


_ATTENTION_DROPOUT: Final = (
    "attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "attn_dropout",
    "dropout_rate",
)  # fmt: skip


def attention_dropout(fields: Fields, traits: Traits) -> float:
    """Rate of the dropout on the softmax."""
    return fields.rate(_ATTENTION_DROPOUT, traits.attention_dropout)


def head_dim_of(fields: Fields, traits: Traits, hidden_size: int, heads: int) -> int:
    """The config's head size, else its class's default, else hidden size / heads."""
    explicit = fields.size("head_dim") or fields.size("d_kv") or traits.head_dim
    return explicit or max(hidden_size // heads, 1)


def _head_dim_of_kind(fields: Fields, head_dim: int, kind: str) -> int:
    """Gemma-4 widens the heads of its full layers (``global_head_dim``)."""
    wider = fields.size("global_head_dim")
    return wider if wider and kind == "full" else head_dim


def _num_kv_heads(fields: Fields, traits: Traits, heads: int, kind: str) -> int:
    if fields.text("model_type") == "falcon" or "new_decoder_architecture" in fields.config:
        if fields.flag("new_decoder_architecture"):
            return heads  # broadcast to every head before caching (modeling_falcon._split_heads)
        return 1 if fields.flag("multi_query", True) else heads
    if fields.text("model_type") == "gpt_bigcode":
        return 1 if fields.flag("multi_query", True) else heads
    sliding_only = fields.size("swa_num_key_value_heads")
    if sliding_only and kind == "sliding":
        return sliding_only
    full_only = fields.size("num_global_key_value_heads")
    if full_only and kind == "full":
        return full_only
    nested = fields.nested("attn_config").size("kv_n_heads")
    return fields.size("num_key_value_heads") or nested or default_kv_heads(fields, traits, heads)


def default_kv_heads(fields: Fields, traits: Traits, heads: int) -> int:
    """Key heads where the config names none: null means all heads, absent the class's default."""
    absent = "num_key_value_heads" not in fields.config
    return (traits.num_kv_heads if absent else None) or heads
