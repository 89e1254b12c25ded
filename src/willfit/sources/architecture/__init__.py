"""From a config to the shape facts that the formulas need: by its fields, not by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from willfit.scenario.model import Architecture, Attention, LayerGroup, Mlp
from willfit.sources.architecture.defaults import sdpa_releases, text_type, with_defaults
from willfit.sources.architecture.fields import Fields
from willfit.sources.architecture.layers import attention_dropout, layer_groups
from willfit.sources.architecture.traits import Traits, traits_of

_TEXT_KEYS: Final = ("text_config", "llm_config", "language_config")
_NOT_UNDERSTOOD: Final = frozenset(
    {
        "convnext", "swin", "sam", "clip", "siglip", "wav2vec2", "florence2", "deepseek_v4",
        "deberta", "deberta-v2",  # attention to positions takes two to three times BERT's
    }
)  # fmt: skip
"""Model types whose stacks the closed formulas do not describe."""


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """Shape facts of a config; None where no transformer stack is understood.

    Raises `InputError` where a field is missing or absurd.
    """
    text = _text_config(config)
    fields = Fields(text)
    if fields.text("model_type") in _NOT_UNDERSTOOD:
        return None
    if fields.size("hidden_size") is None or fields.size("num_layers") is None:
        return None
    traits = traits_of(fields)
    if fields.flag("is_encoder_decoder") or fields.text("model_type") in (
        "t5", "mt5", "bart", "mbart", "pegasus", "whisper",
    ):  # fmt: skip
        return _encoder_decoder(fields, traits)
    return _single_stack(fields, traits)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _TEXT_KEYS:
        nested = config.get(key)
        if isinstance(nested, Mapping):
            inherited: dict[str, Any] = {}
            if "vocab_size" in config:
                inherited["vocab_size"] = config["vocab_size"]
            if "model_type" not in nested:
                inherited["model_type"] = text_type(config.get("model_type")) or ""
            return with_defaults({**inherited, **nested}, nested=True)
    return _with_num_layers(with_defaults(config))


def _with_num_layers(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nemotron-H's later configs list their layers and leave the count to the list."""
    listed = config.get("layers_block_type")
    if isinstance(listed, (list, tuple)) and "num_hidden_layers" not in config:
        return {**config, "num_hidden_layers": len(listed)}
    return config


def _single_stack(fields: Fields, traits: Traits) -> Architecture:
    hidden_size = fields.need("hidden_size")
    groups = layer_groups(fields, traits, hidden_size)
    return Architecture(
        hidden_size=hidden_size,
        vocab_size=fields.size("vocab_size") or 0,
        max_context=_positions(fields) or _patches(fields) or traits.max_context,
        fixed_positions=fields.text("model_type") in _TABLE_OF_POSITIONS,
        layers=groups,
        is_decoder=traits.decoder,
        supports_sdpa=traits.sdpa,
        sdpa_releases=sdpa_releases(_module(fields.text("model_type")), today=traits.sdpa),
        final_softcap=fields.number("final_logit_softcapping"),
        norms_per_layer=traits.norms_per_layer,
        rms_norm=traits.rms_norm,
        post_norm=traits.post_norm,
        learned_positions=traits.learned_positions,
        scaled_logits="logit_scale" in fields.config or "logits_scaling" in fields.config,
        norm_keeps_fp32=fields.text("model_type").startswith(("gemma", "paligemma")),
        parallel_residual=_parallel(fields, traits),
        hidden_act=fields.text("hidden_act", traits.hidden_act),
        dropout=fields.rate(_HIDDEN_DROPOUT, traits.hidden_dropout),
        activation_dropout=fields.rate(_ACTIVATION_DROPOUT, traits.activation_dropout),
    )


_HIDDEN_DROPOUT: Final = (
    "hidden_dropout_prob", "hidden_dropout", "resid_pdrop", "dropout", "dropout_rate",
)  # fmt: skip
_ACTIVATION_DROPOUT: Final = ("activation_dropout", "dropout_rate")
"""``dropout_rate`` is T5's, one for all of its dropouts."""


_TABLE_OF_POSITIONS: Final = frozenset(
    {
        "albert", "bart", "bert", "camembert", "data2vec-text", "distilbert", "electra", "gpt2",
        "gpt_bigcode", "gpt_neo", "mbart", "mpnet", "opt", "pegasus", "roberta", "xlm-roberta",
        "xlm-roberta-xl",
    }
)  # fmt: skip
"""Model types whose position embeddings are a table of ``max_position_embeddings`` rows."""
_AFTER_PADDING: Final = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}
)
"""Of these the first position is the padding index + 1 (`create_position_ids_from_input_ids`)."""


def _module(model_type: str) -> str:
    """Module of transformers that a model type's classes are in."""
    return model_type.replace("-", "_").removesuffix("_text")


def _positions(fields: Fields) -> int | None:
    """The longest input that the table of positions, if it is one, has rows for."""
    rows = fields.size("max_context")
    model_type = fields.text("model_type")
    if rows is None or model_type not in _AFTER_PADDING:
        return rows
    padding = fields.config.get("pad_token_id")
    return rows - (padding if isinstance(padding, int) else 1) - 1


def _patches(fields: Fields) -> int | None:
    """What a vision transformer reads: an image's patches and the class token."""
    image, patch = fields.size("image_size"), fields.size("patch_size")
    return (image // patch) ** 2 + 1 if image and patch and not fields.size("vocab_size") else None


def _parallel(fields: Fields, traits: Traits) -> bool:
    for name in ("use_parallel_residual", "parallel_attn"):
        if name in fields.config:
            return fields.flag(name)
    return traits.parallel_residual


def _encoder_decoder(fields: Fields, traits: Traits) -> Architecture:
    """T5, BART and Whisper: two plain stacks, the decoder with cross attention."""
    hidden_size = fields.need("hidden_size")
    decoder = _stack(fields, traits, hidden_size, "decoder")
    encoder = _stack(fields, traits, hidden_size, "encoder")
    plain = _single_stack(fields, traits)
    return replace(
        plain,
        encoder_len=fields.size("max_source_positions"),
        relative_bias=fields.size("relative_attention_num_buckets") is not None,
        layers=(decoder,),
        encoder_layers=(encoder,),
        norms_per_layer=3 if traits.norms_per_layer == 2 else traits.norms_per_layer,
    )


def _stack(fields: Fields, traits: Traits, hidden_size: int, side: str) -> LayerGroup:
    layers = fields.size(f"{side}_layers") or (
        fields.size("num_decoder_layers") if side == "decoder" else None
    )
    heads = fields.size(f"{side}_attention_heads") or fields.need("num_heads")
    head_dim = fields.size("d_kv") or hidden_size // heads
    width = fields.size(f"{side}_ffn_dim") or fields.need("intermediate_size")
    gated = fields.text("feed_forward_proj").startswith("gated") or traits.gated
    return LayerGroup(
        count=layers or fields.need("num_layers"),
        attention=Attention(
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=head_dim,
            v_head_dim=head_dim,
            causal=side == "decoder",
            cross=side == "decoder",
            dropout=attention_dropout(fields, traits),
            softmax_in_own_type=traits.softmax_in_own_type,
        ),
        mlp=Mlp(intermediate_size=width, gated=gated),
    )
