"""The tensor table of a bare config: by its shape fields, without torch and without its class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from willfit.errors import InputError, UnsupportedError
from willfit.sources.architecture.defaults import config_defaults, with_defaults
from willfit.sources.architecture.fields import SYNONYMS, Fields
from willfit.sources.tables.decoder import decoder_table
from willfit.sources.tables.encoder import bert_table
from willfit.sources.tables.older import (
    bloom_table,
    falcon_table,
    gpt2_table,
    neox_table,
    opt_table,
)
from willfit.sources.tables.t5 import t5_table
from willfit.sources.tables.table import Table

__all__ = ["Table", "tensor_table"]

_Family = tuple[str, Callable[[Fields], bool], Callable[[Mapping[str, Any]], Table]]


def _has(*names: str) -> Callable[[Fields], bool]:
    return lambda fields: all(name in fields.config for name in names)


def _is_decoder(fields: Fields) -> bool:
    """Llama-like: RMS or layer norm settings of that line, rotary positions, an MLP width."""
    marks = ("rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "kv_lora_rank")
    width = fields.config.get("intermediate_size") is not None
    named = fields.text("model_type") in _LLAMA_LIKE
    return width and (named or any(mark in fields.config for mark in marks))


ON_TRACE: Final = "pip install 'willfit[trace]' builds the real class without weights"
_LLAMA_LIKE: Final = frozenset(
    {
        "gemma", "gemma2", "granite", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2",
        "qwen3", "smollm3",
    }
)  # fmt: skip
"""Types that are of that line even where a short config says nothing of norms and positions."""


FAMILIES: Final[tuple[_Family, ...]] = (
    ("T5", _has("d_kv", "d_ff"), t5_table),
    ("OPT", _has("ffn_dim", "do_layer_norm_before"), opt_table),
    ("BLOOM", _has("apply_residual_connection_post_layernorm", "n_layer"), bloom_table),
    ("Falcon", _has("new_decoder_architecture"), falcon_table),
    ("Falcon", _has("multi_query", "parallel_attn"), falcon_table),
    ("GPT-2", _has("n_embd", "n_layer", "n_head", "activation_function"), gpt2_table),
    ("GPT-NeoX", _has("rotary_pct", "use_parallel_residual"), neox_table),
    ("BERT", _has("type_vocab_size", "intermediate_size"), bert_table),
    ("decoder", _is_decoder, decoder_table),
)
"""Families by the fields that only they have, asked in this order."""

_BY_TYPE: Final = {
    "t5": t5_table, "mt5": t5_table, "opt": opt_table, "bloom": bloom_table,
    "falcon": falcon_table, "gpt2": gpt2_table, "gpt_neox": neox_table, "bert": bert_table,
    "roberta": bert_table, "xlm-roberta": bert_table,
}  # fmt: skip
_NOT_HERE: Final = frozenset(
    {
        "electra", "albert", "distilbert", "mpnet", "deberta", "deberta-v2", "modernbert", "new",
        "gptj", "gpt_neo", "gpt_bigcode", "mpt", "phi", "dbrx", "bart", "mbart", "pegasus",
        "whisper", "gemma3n_text", "gemma4_text", "granitemoe", "granitemoehybrid", "llama4_text",
        "mimo_v2_flash", "deepseek_v32", "deepseek_v4", "glm_moe_dsa", "nomic_bert", "jamba",
        "falcon_h1", "nemotron_h", "lfm2", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text",
        "minimax", "cohere", "cohere2",
    }
)  # fmt: skip
"""Types that look like a family above and are not."""


_NEEDED: Final = ("hidden_size", "num_layers", "num_heads", "vocab_size")
"""Without these no family can be told."""


def _states(config: Mapping[str, Any], name: str) -> bool:
    return any(key in config for key in SYNONYMS.get(name, (name,)))


def tensor_table(config: Mapping[str, Any]) -> Table:
    """The tensors that a config implies.

    Raises `InputError` where a needed field is missing or absurd, `UnsupportedError` where no
    family is recognised: then only the real class knows.
    """
    fields = Fields(config)
    model_type = fields.text("model_type")
    nested = [key for key in ("text_config", "vision_config", "audio_config") if key in config]
    if nested or model_type in _NOT_HERE:
        what = f"a {' and '.join(nested)}" if nested else f"model_type {model_type}"
        raise UnsupportedError(
            f"the shapes of a config with {what} are known to its class alone: {ON_TRACE}"
        )
    by_type = _BY_TYPE.get(model_type)
    if by_type is not None:
        return by_type(config)
    whole = all(_states(with_defaults(config), name) for name in _NEEDED)
    for _, recognise, build in FAMILIES:
        if whole and recognise(fields):
            return build(config)
    usual = config_defaults().get(model_type, {})
    missing = [name for name in _NEEDED if not _states(config, name)]
    if missing and all(_states(usual, name) for name in missing):
        raise InputError(
            f"the config of model_type {model_type} lacks {', '.join(missing)}: a config.json as "
            "transformers saves it has them"
        )
    raise UnsupportedError(
        f"no known family has the fields of this config (model_type {model_type or 'absent'}): "
        f"{ON_TRACE}"
    )
