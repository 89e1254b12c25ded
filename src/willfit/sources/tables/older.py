"""Older decoders: GPT-2, GPT-NeoX, OPT, BLOOM and Falcon, each a short list of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from willfit.sources.architecture.fields import Fields
from willfit.sources.tables.table import Builder, Table, indices


def gpt2_table(config: Mapping[str, Any]) -> Table:
    """GPT-2: learned positions, Conv1D, everything with a bias, tied head."""
    fields, out = Fields(config), Builder()
    h, layers = fields.need("hidden_size"), fields.need("num_layers")
    width = fields.size("intermediate_size") or 4 * h
    vocab = fields.need("vocab_size")
    out.weight("transformer.wte.weight", (vocab, h), "Embedding")
    out.weight("transformer.wpe.weight", (fields.size("max_context", 1024) or 0, h), "Embedding")
    path = f"transformer.h.{indices(range(layers))}"
    out.norm(f"{path}.ln_1", h, bias=True, module="LayerNorm")
    out.conv1d(f"{path}.attn.c_attn", h, 3 * h)
    out.conv1d(f"{path}.attn.c_proj", h, h)
    out.norm(f"{path}.ln_2", h, bias=True, module="LayerNorm")
    out.conv1d(f"{path}.mlp.c_fc", h, width)
    out.conv1d(f"{path}.mlp.c_proj", width, h)
    out.norm("transformer.ln_f", h, bias=True, module="LayerNorm")
    return _headed(out, fields, "transformer.wte.weight", path, tied=True)


def neox_table(config: Mapping[str, Any]) -> Table:
    """GPT-NeoX and Pythia: fused qkv, biases, untied ``embed_out``."""
    fields, out = Fields(config), Builder()
    h, layers = fields.need("hidden_size"), fields.need("num_layers")
    width, heads = fields.need("intermediate_size"), fields.need("num_heads")
    bias = fields.flag("attention_bias", True)
    out.weight("gpt_neox.embed_in.weight", (fields.need("vocab_size"), h), "Embedding")
    path = f"gpt_neox.layers.{indices(range(layers))}"
    for norm in ("input_layernorm", "post_attention_layernorm"):
        out.norm(f"{path}.{norm}", h, bias=True, module="LayerNorm")
    out.linear(f"{path}.attention.query_key_value", 3 * h, h, bias=bias)
    out.linear(f"{path}.attention.dense", h, h, bias=bias)
    out.linear(f"{path}.mlp.dense_h_to_4h", width, h, bias=True)
    out.linear(f"{path}.mlp.dense_4h_to_h", h, width, bias=True)
    out.norm("gpt_neox.final_layer_norm", h, bias=True, module="LayerNorm")
    half = int(h // heads * (fields.number("rotary_pct") or 0.25)) // 2
    for name in ("inv_freq", "original_inv_freq"):
        out.buffer(f"gpt_neox.rotary_emb.{name}", (half,))
    return _headed(out, fields, "gpt_neox.embed_in.weight", path, tied=False, head="embed_out")


def opt_table(config: Mapping[str, Any]) -> Table:
    """OPT: learned positions (+2), biases, tied head, projections of a narrower embedding."""
    fields, out = Fields(config), Builder()
    h, layers = fields.need("hidden_size"), fields.need("num_layers")
    width = fields.need("intermediate_size")
    narrow = fields.size("word_embed_proj_dim") or h
    vocab = fields.need("vocab_size")
    base = "model.decoder"
    out.weight(f"{base}.embed_tokens.weight", (vocab, narrow), "Embedding")
    positions = (fields.size("max_context", 2048) or 0) + 2
    out.weight(f"{base}.embed_positions.weight", (positions, h), "Embedding")
    if narrow != h:
        out.linear(f"{base}.project_out", narrow, h)
        out.linear(f"{base}.project_in", h, narrow)
    if fields.flag("do_layer_norm_before", True) and not fields.flag("_remove_final_layer_norm"):
        out.norm(f"{base}.final_layer_norm", h, bias=True, module="LayerNorm")
    path = f"{base}.layers.{indices(range(layers))}"
    bias = fields.flag("enable_bias", True)
    for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
        out.linear(f"{path}.self_attn.{name}", h, h, bias=bias)
    out.norm(f"{path}.self_attn_layer_norm", h, bias=True, module="LayerNorm")
    out.linear(f"{path}.fc1", width, h, bias=bias)
    out.linear(f"{path}.fc2", h, width, bias=bias)
    out.norm(f"{path}.final_layer_norm", h, bias=True, module="LayerNorm")
    return _headed(out, fields, f"{base}.embed_tokens.weight", path, tied=True, width=narrow)


def bloom_table(config: Mapping[str, Any]) -> Table:
    """BLOOM: ALiBi, a norm after the embedding, fused qkv, tied head."""
    fields, out = Fields(config), Builder()
    h, layers = fields.need("hidden_size"), fields.need("num_layers")
    out.weight("transformer.word_embeddings.weight", (fields.need("vocab_size"), h), "Embedding")
    out.norm("transformer.word_embeddings_layernorm", h, bias=True, module="LayerNorm")
    path = f"transformer.h.{indices(range(layers))}"
    out.norm(f"{path}.input_layernorm", h, bias=True, module="LayerNorm")
    out.linear(f"{path}.self_attention.query_key_value", 3 * h, h, bias=True)
    out.linear(f"{path}.self_attention.dense", h, h, bias=True)
    out.norm(f"{path}.post_attention_layernorm", h, bias=True, module="LayerNorm")
    out.linear(f"{path}.mlp.dense_h_to_4h", 4 * h, h, bias=True)
    out.linear(f"{path}.mlp.dense_4h_to_h", h, 4 * h, bias=True)
    out.norm("transformer.ln_f", h, bias=True, module="LayerNorm")
    return _headed(out, fields, "transformer.word_embeddings.weight", path, tied=True)


def falcon_table(config: Mapping[str, Any]) -> Table:
    """Falcon: fused qkv with one shared or grouped key head, one or two norms, tied head."""
    fields, out = Fields(config), Builder()
    h, layers, heads = (fields.need(n) for n in ("hidden_size", "num_layers", "num_heads"))
    bias, new = fields.flag("bias"), fields.flag("new_decoder_architecture")
    kv = fields.size("num_kv_heads") or heads
    if not new:
        kv = 1 if fields.flag("multi_query", True) else heads
    head = h // heads
    width = fields.size("ffn_hidden_size") or 4 * h
    out.weight("transformer.word_embeddings.weight", (fields.need("vocab_size"), h), "Embedding")
    path = f"transformer.h.{indices(range(layers))}"
    out.linear(f"{path}.self_attention.query_key_value", (heads + 2 * kv) * head, h, bias=bias)
    out.linear(f"{path}.self_attention.dense", h, h, bias=bias)
    out.linear(f"{path}.mlp.dense_h_to_4h", width, h, bias=bias)
    out.linear(f"{path}.mlp.dense_4h_to_h", h, width, bias=bias)
    for norm in _falcon_norms(fields, new=new):
        out.norm(f"{path}.{norm}", h, bias=True, module="LayerNorm")
    out.norm("transformer.ln_f", h, bias=True, module="LayerNorm")
    if not fields.flag("alibi"):
        for name in ("inv_freq", "original_inv_freq"):
            out.buffer(f"transformer.rotary_emb.{name}", (head // 2,))
    return _headed(out, fields, "transformer.word_embeddings.weight", path, tied=True)


def _falcon_norms(fields: Fields, *, new: bool) -> tuple[str, ...]:
    if new and (fields.size("num_ln_in_parallel_attn") or 2) == 2:
        return ("ln_attn", "ln_mlp")
    if not new and not fields.flag("parallel_attn", True):
        return ("input_layernorm", "post_attention_layernorm")
    return ("input_layernorm",)


def _headed(
    out: Builder, fields: Fields, embedding: str, path: str, *, tied: bool,
    head: str = "lm_head", width: int | None = None,
) -> Table:  # fmt: skip
    """The table with its output head, tied unless the config says otherwise."""
    tied = fields.flag("tie_word_embeddings", tied)
    shape = (fields.need("vocab_size"), width or fields.need("hidden_size"))
    out.weight(f"{head}.weight", shape, "Linear", tied_to=embedding if tied else None)
    names = fields.items("architectures") or ["CausalLM"]
    return Table(model_class=str(names[0]), rows=tuple(out.rows), no_split=(path,))
