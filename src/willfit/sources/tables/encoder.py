"""Encoders of the BERT kind, with the head that ``architectures`` declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from willfit.errors import UnsupportedError
from willfit.sources.architecture.fields import Fields
from willfit.sources.tables.table import Builder, Table, indices


def bert_table(config: Mapping[str, Any]) -> Table:
    """BERT and RoBERTa: three embeddings, post-norm layers, pooler or masked-language head."""
    fields, out = Fields(config), Builder()
    name = str((fields.items("architectures") or ["BertModel"])[0])
    prefix = "" if name.endswith("Model") else f"{_prefix(name)}."
    h, layers = fields.need("hidden_size"), fields.need("num_layers")
    width, positions = fields.need("intermediate_size"), fields.size("max_context", 512) or 0
    embeddings = f"{prefix}embeddings"
    word = f"{embeddings}.word_embeddings.weight"
    out.weight(word, (fields.need("vocab_size"), h), "Embedding")
    out.weight(f"{embeddings}.position_embeddings.weight", (positions, h), "Embedding")
    types = fields.size("type_vocab_size", 2) or 0
    out.weight(f"{embeddings}.token_type_embeddings.weight", (types, h), "Embedding")
    out.norm(f"{embeddings}.LayerNorm", h, bias=True, module="LayerNorm")
    for buffer in ("position_ids", "token_type_ids"):
        out.buffer(f"{embeddings}.{buffer}", (1, positions), "int64")
    path = f"{prefix}encoder.layer.{indices(range(layers))}"
    for part in ("query", "key", "value"):
        out.linear(f"{path}.attention.self.{part}", h, h, bias=True)
    out.linear(f"{path}.attention.output.dense", h, h, bias=True)
    out.norm(f"{path}.attention.output.LayerNorm", h, bias=True, module="LayerNorm")
    out.linear(f"{path}.intermediate.dense", width, h, bias=True)
    out.linear(f"{path}.output.dense", h, width, bias=True)
    out.norm(f"{path}.output.LayerNorm", h, bias=True, module="LayerNorm")
    _head(out, fields, name, prefix, word)
    return Table(model_class=name, rows=tuple(out.rows), no_split=(embeddings, path), composite=())


def _prefix(name: str) -> str:
    return "roberta" if "oberta" in name else "bert"


def _head(out: Builder, fields: Fields, name: str, prefix: str, word: str) -> None:
    h, vocab = fields.need("hidden_size"), fields.need("vocab_size")
    labels = len(fields.config.get("id2label") or {}) or fields.size("num_labels") or 2
    roberta = "oberta" in name
    if name.endswith("Model"):
        out.linear("pooler.dense", h, h, bias=True)
    elif name.endswith("ForMaskedLM"):
        _masked_head(out, h, vocab, word, roberta=roberta)
    elif name.endswith("ForSequenceClassification") and roberta:
        out.linear("classifier.dense", h, h, bias=True)
        out.linear("classifier.out_proj", labels, h, bias=True)
    elif name.endswith(("ForSequenceClassification", "ForTokenClassification")):
        if name.endswith("ForSequenceClassification"):
            out.linear(f"{prefix}pooler.dense", h, h, bias=True)
        out.linear("classifier", labels, h, bias=True)
    elif name.endswith("ForQuestionAnswering"):
        out.linear("qa_outputs", 2, h, bias=True)
    else:
        raise UnsupportedError(
            f"the head of {name} has no table without its class: "
            "pip install 'willfit[trace]' builds the real one"
        )


def _masked_head(out: Builder, h: int, vocab: int, word: str, *, roberta: bool) -> None:
    """A dense layer, a norm, and the embedding again as decoder, with a bias of its own."""
    if roberta:
        out.weight("lm_head.bias", (vocab,), "LMHead")
        out.linear("lm_head.dense", h, h, bias=True)
        out.norm("lm_head.layer_norm", h, bias=True, module="LayerNorm")
        out.weight("lm_head.decoder.weight", (vocab, h), "Linear", tied_to=word)
        out.weight("lm_head.decoder.bias", (vocab,), "Linear", tied_to="lm_head.bias")
        return
    head = "cls.predictions"
    out.weight(f"{head}.bias", (vocab,), "LMHead")
    out.linear(f"{head}.transform.dense", h, h, bias=True)
    out.norm(f"{head}.transform.LayerNorm", h, bias=True, module="LayerNorm")
    out.weight(f"{head}.decoder.weight", (vocab, h), "Linear", tied_to=word)
    out.weight(f"{head}.decoder.bias", (vocab,), "Linear", tied_to=f"{head}.bias")
