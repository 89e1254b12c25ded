"""The same checkpoint under another auto class: without its head, or with a classification head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from willfit.errors import InputError, UnsupportedError
from willfit.scenario.collapse import row_from_json
from willfit.scenario.model import Architecture, ModelSpec, TensorRow

CLASSIFIER: Final = "AutoModelForSequenceClassification"
_HEADS: Final = ("lm_head", "embed_out", "proj_out", "score", "classifier")
_SUFFIXES: Final = {
    "AutoModelForCausalLM": ("ForCausalLM", "LMHeadModel"),
    "AutoModelForSeq2SeqLM": ("ForConditionalGeneration",),
    "AutoModelForMaskedLM": ("ForMaskedLM",),
    "AutoModelForImageTextToText": ("ForConditionalGeneration",),
    "AutoModelForVision2Seq": ("ForConditionalGeneration", "ForVisionText2Text"),
    "AutoModelForImageClassification": ("ForImageClassification",),
    "AutoModelForTokenClassification": ("ForTokenClassification",),
    "AutoModelForQuestionAnswering": ("ForQuestionAnswering",),
}
"""Endings of the classes that an auto class may return."""


def with_auto_class(spec: ModelSpec, auto_class: str | None, num_labels: int | None) -> ModelSpec:
    """The model as ``auto_class`` builds it; a number of labels alone means classification.

    Raises `InputError` for a class that does not exist or does not suit the model, and
    `UnsupportedError` for a head whose shapes are not known here.
    """
    if auto_class is None and num_labels is None:
        return spec
    name = auto_class or CLASSIFIER
    if num_labels is not None and not name.endswith("Classification"):
        raise InputError(f"--num-labels contradicts {name}, which has no labels: leave one out")
    if name == "AutoModel":
        return _base(spec)
    if name == CLASSIFIER:
        return _classifier(spec, num_labels or _stored_labels(spec) or 2)
    suffixes = _SUFFIXES.get(name)
    if suffixes is None:
        raise InputError(
            f"unknown auto class {name[:60]!r}: expected AutoModel, {CLASSIFIER} or one of "
            f"{', '.join(_SUFFIXES)}"
        )
    if spec.model_class.endswith(suffixes):
        return spec
    raise UnsupportedError(
        f"{spec.id} is a {spec.model_class}; its shapes as {name} are not known here: "
        "leave --auto-class out"
    )


_OF_LABELS: Final = {
    "ForSequenceClassification": ("score", "classifier"),
    "ForTokenClassification": ("score", "classifier"),
    "ForQuestionAnswering": ("qa_outputs",),
    "ElectraForPreTraining": ("discriminator_predictions",),
}
"""Endings of classes whose logits are as wide as a last layer of these names."""


def with_own_head(spec: ModelSpec) -> ModelSpec:
    """The model as its own class scores: a stored classifier's logits are its labels'."""
    names = next((n for end, n in _OF_LABELS.items() if spec.model_class.endswith(end)), ())
    width = _width_of(spec, names)
    if width is None or spec.architecture is None or spec.architecture.encoder_layers:
        return spec
    return replace(
        spec,
        architecture=replace(spec.architecture, vocab_size=width),
        classifier=spec.model_class.endswith("ForSequenceClassification"),
    )


def _base(spec: ModelSpec) -> ModelSpec:
    if spec.library != "transformers":
        return spec  # timm has one class a model
    variant = spec.variants.get("AutoModel")
    if variant is None:
        rows = tuple(row for row in spec.tensors if not _is_head(row))
        return replace(
            spec,
            tensors=rows,
            architecture=_headless(spec),
            classifier=False,
            stated_num_params=None,
        )
    return replace(
        spec,
        model_class=variant.model_class,
        tensors=variant.tensors,
        no_split=variant.no_split,
        composite=variant.composite,
        architecture=_headless(spec),
        classifier=False,
        stated_num_params=None,
    )


def _headless(spec: ModelSpec) -> Architecture | None:
    return None if spec.architecture is None else replace(spec.architecture, vocab_size=0)


def _is_head(row: TensorRow) -> bool:
    return row.name.split(".")[0] in _HEADS


def _classifier(spec: ModelSpec, num_labels: int) -> ModelSpec:
    architecture = spec.architecture
    hidden = architecture.hidden_size if architecture else spec.config.get("hidden_size")
    decoder = architecture and architecture.is_decoder and not architecture.encoder_layers
    stored = _stored_labels(spec) == num_labels
    if stored and not decoder:
        return spec
    build = _DECODER if decoder else _ENCODERS.get(str(spec.config.get("model_type")))
    if build is None or not isinstance(hidden, int):
        raise UnsupportedError(
            f"the classification head of {spec.model_class} is not known here: "
            "leave --num-labels and --auto-class out"
        )
    rows = build(spec, hidden, num_labels)
    return replace(
        spec,
        model_class=_class_name(spec.model_class),
        tensors=rows,
        architecture=replace(architecture, vocab_size=num_labels) if architecture else None,
        variants={},
        stated_num_params=None,
        classifier=True,
        assumptions=spec.assumptions
        if stored
        else (
            *spec.assumptions,
            f"classification head with {num_labels} labels in place of the language-model head",
        ),
    )


def _stored_labels(spec: ModelSpec) -> int | None:
    """Labels of the head that the checkpoint itself has; None where it has none."""
    if not spec.model_class.endswith("ForSequenceClassification"):
        return None
    width = _width_of(spec, _OF_LABELS["ForSequenceClassification"])
    return spec.config.get("num_labels") if width is None else width


def _width_of(spec: ModelSpec, names: Sequence[str]) -> int | None:
    """Outputs of the last layer among these at the model's top; None where it has none of them."""
    rows = [row for row in spec.tensors if row.name.split(".")[0] in names and row.shape]
    return rows[-1].shape[0] if rows else None


def _class_name(name: str) -> str:
    name = name.removesuffix("ForSequenceClassification")
    for suffix in ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining", "Model"):
        if name.endswith(suffix):
            return name.removesuffix(suffix) + "ForSequenceClassification"
    return name + "ForSequenceClassification"


_Build = Callable[[ModelSpec, int, int], tuple[TensorRow, ...]]


def _linear(spec: ModelSpec, name: str, out: int, inner: int, *, bias: bool) -> list[TensorRow]:
    dtype = spec.stored_dtype.name
    rows: list[list[object]] = [[f"{name}.weight", [out, inner], dtype, "Linear"]]
    if bias:
        rows.append([f"{name}.bias", [out], dtype, "Linear"])
    return [row_from_json(row) for row in rows]


def _decoder_rows(spec: ModelSpec, hidden: int, num_labels: int) -> tuple[TensorRow, ...]:
    """``score``: a Linear without bias (GenericForSequenceClassification)."""
    body = tuple(row for row in spec.tensors if not _is_head(row))
    return (*body, *_linear(spec, "score", num_labels, hidden, bias=False))


def _body(spec: ModelSpec, prefix: str, *, pooler: bool) -> tuple[TensorRow, ...]:
    variant = spec.variants.get("AutoModel")
    rows = spec.tensors if variant is None else variant.tensors
    return tuple(
        replace(row, name=f"{prefix}.{row.name}")
        for row in rows
        if pooler or not row.name.startswith("pooler.")
    )


def _bert_rows(spec: ModelSpec, hidden: int, num_labels: int) -> tuple[TensorRow, ...]:
    """BERT: the base with its pooler and one Linear."""
    return (
        *_body(spec, "bert", pooler=True),
        *_linear(spec, "classifier", num_labels, hidden, bias=True),
    )


def _distilbert_rows(spec: ModelSpec, hidden: int, num_labels: int) -> tuple[TensorRow, ...]:
    """DistilBERT: a pre-classifier and a classifier."""
    return (
        *_body(spec, "distilbert", pooler=False),
        *_linear(spec, "pre_classifier", hidden, hidden, bias=True),
        *_linear(spec, "classifier", num_labels, hidden, bias=True),
    )


def _pooled_rows(prefix: str) -> _Build:
    """DeBERTa: a pooler of its own beside the base, and one Linear."""

    def build(spec: ModelSpec, hidden: int, num_labels: int) -> tuple[TensorRow, ...]:
        return (
            *_body(spec, prefix, pooler=False),
            *_linear(spec, "pooler.dense", hidden, hidden, bias=True),
            *_linear(spec, "classifier", num_labels, hidden, bias=True),
        )

    return build


def _dense_rows(prefix: str) -> _Build:
    """RoBERTa's relatives: no pooler, a dense layer and a projection."""

    def build(spec: ModelSpec, hidden: int, num_labels: int) -> tuple[TensorRow, ...]:
        return (
            *_body(spec, prefix, pooler=False),
            *_linear(spec, "classifier.dense", hidden, hidden, bias=True),
            *_linear(spec, "classifier.out_proj", num_labels, hidden, bias=True),
        )

    return build


def _modernbert_rows(spec: ModelSpec, hidden: int, num_labels: int) -> tuple[TensorRow, ...]:
    """ModernBERT: a dense layer and a norm, both without bias, then a Linear."""
    norm = [["head.norm.weight", [hidden], spec.stored_dtype.name, "LayerNorm"]]
    return (
        *_body(spec, "model", pooler=False),
        *_linear(spec, "head.dense", hidden, hidden, bias=False),
        *map(row_from_json, norm),
        *_linear(spec, "classifier", num_labels, hidden, bias=True),
    )


_DECODER: Final[_Build] = _decoder_rows
_ENCODERS: Final[dict[str, _Build]] = {
    "bert": _bert_rows,
    "roberta": _dense_rows("roberta"),
    "xlm-roberta": _dense_rows("roberta"),
    "electra": _dense_rows("electra"),
    "mpnet": _dense_rows("mpnet"),
    "deberta-v2": _pooled_rows("deberta"),
    "distilbert": _distilbert_rows,
    "modernbert": _modernbert_rows,
}
