"""Labels by what a model's head decides, told by the end of its class's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from willfit.errors import UnsupportedError
from willfit.trace.inputs.modalities import decoder_len, image_size
from willfit.trace.inputs.model import Asked, Face


def with_labels(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with what makes the class return a loss."""
    for ending, maker in _BY_ENDING.items():
        if asked.face.cls.endswith(ending) and _has_loss(asked.face):
            return maker(asked, inputs)
    if "labels" in asked.face.names:
        return _tokens(asked, inputs)
    if "return_loss" in asked.face.names:
        return {**inputs, "return_loss": True}
    raise UnsupportedError(
        f"{asked.face.cls} has no loss to train with: name a class with a head (--auto-class)"
    )


def _has_loss(face: Face) -> bool:
    return bool({"labels", "start_positions"} & face.names.keys())


def _tokens(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    """One label a token of what the model writes: (B, S)."""
    ids = inputs.get("input_ids")
    if ids is None or asked.face.encoder_decoder:
        ids = torch.zeros((asked.batch, decoder_len(asked)), dtype=torch.int64)
    return {**inputs, "labels": ids}


def _one(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    """One class a sample: (B,); a float where there is one label, which is regression."""
    regression = asked.face.cls.endswith("ForSequenceClassification") and (
        getattr(asked.face.config, "num_labels", 2) == 1
    )
    dtype = asked.face.dtype if regression else torch.int64
    return {**inputs, "labels": torch.zeros(asked.batch, dtype=dtype)}


def _each(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    """One class a token: (B, S)."""
    return {**inputs, "labels": torch.zeros_like(inputs[asked.face.main], dtype=torch.int64)}


def _span(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    """Where the answer starts and ends: (B,) each."""
    ends = ("start_positions", "end_positions")
    return {**inputs, **{end: torch.zeros(asked.batch, dtype=torch.int64) for end in ends}}


def _pairs(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    """BERT's pretraining: a label a token, and whether the second sentence follows."""
    made = _tokens(asked, inputs)
    if "next_sentence_label" in asked.face.names:
        made["next_sentence_label"] = torch.zeros(asked.batch, dtype=torch.int64)
    if "sentence_order_label" in asked.face.names:
        made["sentence_order_label"] = torch.zeros(asked.batch, dtype=torch.int64)
    return made


def _map(asked: Asked, inputs: dict[str, Any]) -> dict[str, Any]:
    """One class a pixel: (B, H, W)."""
    shape = (asked.batch, *image_size(asked.face))
    return {**inputs, "labels": torch.zeros(shape, dtype=torch.int64)}


def _boxes(asked: Asked, _: dict[str, Any]) -> dict[str, Any]:
    raise UnsupportedError(
        f"{asked.face.cls} matches boxes by their values, which a trace has none of: "
        "leave --trace out"
    )


_BY_ENDING: Final[dict[str, Callable[[Asked, dict[str, Any]], dict[str, Any]]]] = {
    "ForSequenceClassification": _one,
    "ForImageClassification": _one,
    "ForAudioClassification": _one,
    "ForVideoClassification": _one,
    "ForNextSentencePrediction": _one,
    "ForImageClassificationWithTeacher": _one,
    "ImageModel": _one,
    "ForTokenClassification": _each,
    "ForAudioFrameClassification": _each,
    "ForQuestionAnswering": _span,
    "ForMultipleChoice": _one,
    "ForPreTraining": _pairs,
    "ForSemanticSegmentation": _map,
    "ForObjectDetection": _boxes,
}
"""Makers by the end of the class's name; other classes with ``labels`` want one a token."""
