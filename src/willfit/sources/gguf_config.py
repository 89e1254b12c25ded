"""GGUF metadata in the words of a Hugging Face config, so that one reader of configs does for both.

Keys are those of gguf-py 0.19 constants.py ``Keys``; every one is looked up under the file's
``general.architecture``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from willfit.errors import BrokenFileError
from willfit.scenario.model import TensorRow
from willfit.sources.architecture.defaults import config_defaults
from willfit.sources.architecture.fields import MAX_LAYERS
from willfit.sources.gguf_header import LongArray

MODEL_TYPES: Final[Mapping[str, str]] = {
    "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "qwen3next": "qwen3_next",
    "qwen35": "qwen3_5_text", "qwen35moe": "qwen3_5_moe_text", "qwen2vl": "qwen2_vl_text",
    "gemma3": "gemma3_text", "gemma3n": "gemma3n_text", "gemma4": "gemma4_text", "phi2": "phi",
    "gptneox": "gpt_neox", "starcoder": "gpt_bigcode", "command-r": "cohere",
    "deepseek2": "deepseek_v3", "gpt-oss": "gpt_oss", "glm4moe": "glm4_moe",
    "granitehybrid": "granitemoehybrid", "falcon-h1": "falcon_h1", "modern-bert": "modernbert",
    "llama4": "llama4_text", "nomic-bert": "bert", "mistral3": "mistral",
    "hunyuan-dense": "hunyuan_v1_dense", "hunyuan-moe": "hunyuan_v1_moe",
}  # fmt: skip
"""``model_type`` of transformers by GGUF architecture, where the two differ."""

_SIZES: Final[Mapping[str, str]] = {
    "embedding_length": "hidden_size",
    "context_length": "max_position_embeddings",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.indexer.key_length": "index_head_dim",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "leading_dense_block_count": "first_k_dense_replace",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "full_attention_interval": "full_attention_interval",
    "shortconv.l_cache": "conv_L_cache",
}
"""Config field by metadata key, both meaning the same number."""

_NO_SHAPE: Final = frozenset(
    {"hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "text_config"}
)
"""Defaults of a class that hold for every size of it."""

_LLAMA4_CHUNK: Final = 8192
"""Chunk of Llama-4's local layers, which llama.cpp fixes (llama-model.cpp, ``LLM_ARCH_LLAMA4``)."""


@dataclass(frozen=True, kw_only=True)
class GgufConfig:
    """A config made from metadata, and what of it differs by layer."""

    config: Mapping[str, Any]
    """Fields of the widest layer where layers differ."""
    per_layer: Sequence[Mapping[str, Any]] = ()
    """Fields that differ, by layer; empty where all layers are equal in them."""
    assumptions: tuple[str, ...] = ()


class Metadata:
    """Metadata of one architecture: values checked when they are read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        name = values.get("general.architecture")
        self.architecture = name if isinstance(name, str) else ""

    def get(self, key: str) -> Any:
        """The value under ``<architecture>.<key>``, None where there is none."""
        return self.values.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int | float | None:
        """A number; the largest where the key lists one a layer."""
        value = self.get(key)
        if isinstance(value, list):
            value = max((v for v in value if _is_number(v)), default=None)
        return value if _is_number(value) else None

    def whole(self, key: str) -> int:
        """A whole number, 0 where there is none."""
        value = self.number(key)
        return value if isinstance(value, int) else 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def gguf_config(metadata: Metadata, rows: Sequence[TensorRow]) -> GgufConfig:
    """The config that a GGUF describes."""
    hidden, num_layers = metadata.whole("embedding_length"), _num_layers(metadata)
    if not hidden or not num_layers:
        return GgufConfig(config={"model_type": metadata.architecture})
    config: dict[str, Any] = {"model_type": _model_type(metadata), "num_hidden_layers": num_layers}
    for key, name in _SIZES.items():
        value = metadata.number(key)
        if value:
            config[name] = value
    heads = metadata.whole("attention.head_count")
    config["num_attention_heads"] = heads or None
    if heads:  # llama.cpp's own default, which is not every configuration class's
        config.setdefault("head_dim", hidden // heads)
    config["num_key_value_heads"] = metadata.whole("attention.head_count_kv") or None
    config["intermediate_size"] = metadata.whole("feed_forward_length") or None
    config["vocab_size"] = _vocabulary(metadata, rows)
    config["tie_word_embeddings"] = not any(row.name == "output.weight" for row in rows)
    config["is_gated_act"] = _is_gated(rows, metadata.whole("feed_forward_length"))
    notes = [*_latent(metadata, config), *_windows(metadata, config)]
    _state_space(metadata, config, num_layers)
    _decoder(metadata, config)
    config["mlp_layer_types"] = _mlp_kinds(rows, num_layers) if config.get("num_experts") else None
    present = {name: value for name, value in config.items() if value is not None}
    return GgufConfig(
        config={**_silent(config["model_type"]), **present},
        per_layer=_per_layer(metadata, num_layers),
        assumptions=tuple(notes),
    )


def _silent(model_type: str) -> dict[str, None]:
    """Nulls for what a GGUF leaves out: the class's defaults are of another size of the model."""
    return {name: None for name in config_defaults().get(model_type, ()) if name not in _NO_SHAPE}


def _mlp_kinds(rows: Sequence[TensorRow], num_layers: int) -> list[str]:
    """Which layers have experts: those with a router."""
    routers = {name for row in rows if ".ffn_gate_inp." in row.name for name in row.names()}
    return [
        "sparse" if f"blk.{i}.ffn_gate_inp.weight" in routers else "dense"
        for i in range(num_layers)
    ]


def _num_layers(metadata: Metadata) -> int:
    """Layers that run: multi-token-prediction layers are in the file and are not counted."""
    blocks = metadata.whole("block_count")
    if blocks > MAX_LAYERS:
        raise BrokenFileError(
            f"this GGUF announces {blocks:,} layers, more than any model has: it is damaged"
        )
    return max(blocks - metadata.whole("nextn_predict_layers"), 0)


def _model_type(metadata: Metadata) -> str:
    name = metadata.architecture
    if name == "llama" and metadata.whole("expert_count"):
        return "mixtral"
    return MODEL_TYPES.get(name, name.replace("-", "_"))


def _vocabulary(metadata: Metadata, rows: Sequence[TensorRow]) -> int:
    for name in ("output.weight", "token_embd.weight"):
        found = next((row for row in rows if row.name == name and len(row.shape) == 2), None)
        if found is not None:
            return found.shape[0]
    tokens = metadata.values.get("tokenizer.ggml.tokens")
    listed = tokens.length if isinstance(tokens, LongArray) else 0
    return metadata.whole("vocab_size") or listed


def _is_gated(rows: Sequence[TensorRow], width: int) -> bool:
    """A gate of its own, or one fused into ``ffn_up`` of twice the width (Phi-3, GLM)."""
    if any(".ffn_gate" in row.name and "inp" not in row.name for row in rows):
        return True
    ups = [row.shape[-2] for row in rows if ".ffn_up" in row.name and len(row.shape) >= 2]
    return bool(ups) and bool(width) and ups[0] == 2 * width


def _latent(metadata: Metadata, config: dict[str, Any]) -> list[str]:
    """MLA: a latent cache where the file keeps the absorbed matrices, else full keys and values."""
    rank, key_length = metadata.whole("attention.kv_lora_rank"), None
    if not rank:
        return []
    key_length = metadata.whole("attention.key_length_mla")
    if not key_length:
        return [
            "this GGUF is from before llama.cpp's latent cache: full keys and values are cached"
        ]
    rope = metadata.whole("rope.dimension_count")
    config.update(
        kv_lora_rank=rank,
        q_lora_rank=metadata.whole("attention.q_lora_rank") or None,
        qk_rope_head_dim=rope,
        qk_nope_head_dim=max(key_length - rope, 0),
        v_head_dim=metadata.whole("attention.value_length_mla"),
        head_dim=None,
    )
    return []


def _windows(metadata: Metadata, config: dict[str, Any]) -> list[str]:
    """Which layers slide, and heads that differ between sliding and full layers (Gemma-4)."""
    if metadata.architecture == "llama4":
        config["attention_chunk_size"] = _LLAMA4_CHUNK
        config.pop("sliding_window", None)
    if metadata.architecture == "phi3" and config.pop("sliding_window", None):
        return ["llama.cpp does not use Phi-3's sliding window: every layer caches the context"]
    pattern = metadata.get("attention.sliding_window_pattern")
    if isinstance(pattern, list) and all(isinstance(item, (bool, int)) for item in pattern):
        slides = ["sliding_attention" if item else "full_attention" for item in pattern]
        config["layer_types"] = slides[: config["num_hidden_layers"]]
    elif type(pattern) is int and pattern > 0:
        config["sliding_window_pattern"] = pattern
    narrow = metadata.whole("attention.key_length_swa")
    if narrow:
        config.update(global_head_dim=config.get("head_dim"), head_dim=narrow, v_head_dim=None)
    return []


def _state_space(metadata: Metadata, config: dict[str, Any], num_layers: int) -> None:
    """Mamba, Mamba-2, gated delta net and short convolution, and the layers that have them."""
    kernel, inner = metadata.whole("ssm.conv_kernel"), metadata.whole("ssm.inner_size")
    state, rank = metadata.whole("ssm.state_size"), metadata.whole("ssm.time_step_rank")
    groups = metadata.whole("ssm.group_count")
    if config["model_type"].startswith(("qwen3_next", "qwen3_5")):
        config.update(
            linear_conv_kernel_dim=kernel,
            linear_key_head_dim=state,
            linear_value_head_dim=inner // rank if rank else state,
            linear_num_key_heads=groups,
            linear_num_value_heads=rank,
        )
    elif groups and rank:
        config.update(
            mamba_n_heads=rank,
            mamba_d_head=inner // rank,
            mamba_n_groups=groups,
            mamba_d_state=state,
            mamba_d_conv=kernel,
        )
    elif inner:
        expand = max(inner // config["hidden_size"], 1)
        config.update(mamba_expand=expand, mamba_d_state=state, mamba_d_conv=kernel)
    kv = metadata.get("attention.head_count_kv")
    if isinstance(kv, list) and 0 in kv and (inner or metadata.get("shortconv.l_cache")):
        other = "mamba" if inner else "conv"
        config["layer_types"] = ["full_attention" if n else other for n in kv[:num_layers]]
    elif inner and not config["num_attention_heads"]:
        config["layer_types"] = ["mamba"] * num_layers


def _decoder(metadata: Metadata, config: dict[str, Any]) -> None:
    """T5: the decoder's own depth and width."""
    if metadata.architecture in ("t5", "t5encoder"):
        config.update(
            num_decoder_layers=metadata.whole("decoder_block_count") or None,
            d_kv=metadata.whole("attention.key_length") or None,
            feed_forward_proj="gated-gelu" if config["is_gated_act"] else "relu",
        )


def _per_layer(metadata: Metadata, num_layers: int) -> list[Mapping[str, Any]]:
    """Head counts and widths by layer where they differ and no layer is without attention."""
    names = {
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "feed_forward_length": "intermediate_size",
    }
    lists = {name: metadata.get(key) for key, name in names.items()}
    varied = {
        name: values[:num_layers]
        for name, values in lists.items()
        if isinstance(values, list) and len(values) >= num_layers and len(set(values)) > 1
    }
    if not varied or 0 in varied.get("num_key_value_heads", ()):
        return []
    return [{name: values[i] for name, values in varied.items()} for i in range(num_layers)]
