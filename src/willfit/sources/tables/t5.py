"""Encoder–decoders of the T5 kind: relative positions, RMS norms, gated or plain MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from willfit.sources.architecture.fields import Fields
from willfit.sources.tables.table import Builder, Table, indices


def t5_table(config: Mapping[str, Any]) -> Table:
    """T5, mT5 and Flan-T5."""
    fields, out = Fields(config), Builder()
    h, vocab = fields.need("hidden_size"), fields.need("vocab_size")
    layers = fields.need("num_layers")
    decoder_layers = fields.size("num_decoder_layers") or layers
    out.weight("shared.weight", (vocab, h), "Embedding")
    for side, count in (("encoder", layers), ("decoder", decoder_layers)):
        out.weight(f"{side}.embed_tokens.weight", (vocab, h), "Embedding", tied_to="shared.weight")
        _blocks(out, fields, side, count, h)
        out.norm(f"{side}.final_layer_norm", h, bias=False, module="T5LayerNorm")
    # transformers 5 ties the head whatever the config says (T5ForConditionalGeneration)
    out.weight("lm_head.weight", (vocab, h), "Linear", tied_to="shared.weight")
    names = fields.items("architectures") or ["T5ForConditionalGeneration"]
    return Table(
        model_class=str(names[0]),
        rows=tuple(out.rows),
        no_split=tuple(
            f"{side}.block.{indices(range(count))}"
            for side, count in (("encoder", layers), ("decoder", decoder_layers))
        ),
        keep_in_fp32=("wo",),
    )


def _blocks(out: Builder, fields: Fields, side: str, count: int, h: int) -> None:
    heads, width = fields.need("num_heads"), fields.need("intermediate_size")
    inner = heads * (fields.size("d_kv") or h // heads)
    gated = fields.text("feed_forward_proj").startswith("gated")
    path = f"{side}.block.{indices(range(count))}.layer"
    attentions = ["0.SelfAttention"] + (["1.EncDecAttention"] if side == "decoder" else [])
    for attention in attentions:
        for name in ("q", "k", "v"):
            out.linear(f"{path}.{attention}.{name}", inner, h)
        out.linear(f"{path}.{attention}.o", h, inner)
        number = attention.partition(".")[0]
        out.norm(f"{path}.{number}.layer_norm", h, bias=False, module="T5LayerNorm")
    buckets = fields.size("relative_attention_num_buckets", 32) or 32
    bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    out.weight(bias, (buckets, heads), "Embedding")
    last = f"{path}.{len(attentions)}"
    for name in ("wi_0", "wi_1") if gated else ("wi",):
        out.linear(f"{last}.DenseReluDense.{name}", width, h)
    out.linear(f"{last}.DenseReluDense.wo", h, width)
    out.norm(f"{last}.layer_norm", h, bias=False, module="T5LayerNorm")
