"""Writes data/config_defaults.json: the literal defaults of transformers' configuration classes.

Only defaults that a class states are taken, not what it computes from other fields; a vision–
language type also names the type of its text part. Run with the transformers release to record:
``python -m tools.build_config_defaults``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TARGET: Final = Path(__file__).parents[1] / "src" / "willfit" / "data" / "config_defaults.json"
KEYS: Final = frozenset(
    """
    hidden_size n_embd d_model num_hidden_layers n_layer n_layers num_layers decoder_layers
    encoder_layers num_decoder_layers num_attention_heads n_head n_heads num_heads
    decoder_attention_heads encoder_attention_heads num_key_value_heads head_dim d_kv
    intermediate_size n_inner ffn_dim d_ff ffn_hidden_size decoder_ffn_dim encoder_ffn_dim
    max_position_embeddings n_positions max_seq_len max_target_positions vocab_size
    sliding_window use_sliding_window max_window_layers attention_chunk_size local_attention
    global_attn_every_n_layers num_local_experts num_experts n_routed_experts
    num_experts_per_tok experts_per_token moe_intermediate_size first_k_dense_replace
    n_shared_experts shared_expert_intermediate_size hidden_act hidden_activation
    activation_function attn_logit_softcapping final_logit_softcapping kv_lora_rank q_lora_rank
    qk_nope_head_dim qk_rope_head_dim v_head_dim index_head_dim num_kv_shared_layers
    attn_layer_period attn_layer_offset expert_layer_period expert_layer_offset
    linear_key_head_dim linear_value_head_dim linear_num_key_heads linear_num_value_heads
    linear_conv_kernel_dim conv_L_cache cross_attention_layers multi_query
    new_decoder_architecture
    """.split()  # noqa: SIM905 — eighty quoted names would be harder to read
)


def literal_defaults(config_class: Any) -> dict[str, Any]:
    """The plain values that the class states for the fields that decide shapes."""
    return {
        field.name: field.default
        for field in dataclasses.fields(config_class)
        if field.name in KEYS and isinstance(field.default, (bool, int, float, str))
    }


def text_type(config_class: Any) -> str | None:
    """The model type of the text part where the type has one of its own."""
    try:
        config = config_class()
        text = config.get_text_config(decoder=True)
    except Exception:  # a class that cannot be built without arguments has no default part
        return None
    return text.model_type if text is not config else None


def main() -> None:
    """Write the table, one model type a line so that a release's changes read well."""
    rows: dict[str, Any] = {}
    for model_type in sorted(CONFIG_MAPPING):
        config_class = CONFIG_MAPPING[model_type]
        row = literal_defaults(config_class)
        text = text_type(config_class)
        if text is not None:
            row["text_config"] = text
        if row:
            rows[model_type] = row
    source = f"transformers {transformers.__version__}, configuration classes"
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items())
    TARGET.write_text(f'{{"source": {json.dumps(source)}, "defaults": {{\n{lines}\n}}}}\n')
    print(f"{len(rows)} model types, {TARGET.stat().st_size:,} B")


if __name__ == "__main__":
    main()
