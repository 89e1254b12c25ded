"""The batch that a model of any kind takes: what its forward pass reads and what its head wants."""

from __future__ import annotations

from typing import Any

import torch

from willfit.errors import UnsupportedError
from willfit.trace.inputs.labels import with_labels
from willfit.trace.inputs.modalities import MAKERS, decoder_ids
from willfit.trace.inputs.model import Asked, Face, face

__all__ = ["encoder_batch", "forward_batch", "input_notes", "training_batch"]


def forward_batch(model: Any, *, batch: int, length: int, padded: bool) -> dict[str, torch.Tensor]:
    """What one forward pass without labels reads; both sides of an encoder–decoder model."""
    asked = Asked(face=face(model), batch=batch, length=length, padded=padded)
    made = _inputs(asked)
    if asked.face.encoder_decoder and "decoder_input_ids" in asked.face.names:
        made |= decoder_ids(asked)
    return made


def encoder_batch(model: Any, *, batch: int, length: int, padded: bool) -> dict[str, torch.Tensor]:
    """What the encoder of an encoder–decoder model reads: token ids, sound or an image."""
    asked = Asked(face=face(model), batch=batch, length=length, padded=padded)
    return MAKERS[_main(asked.face)](asked)


def training_batch(model: Any, *, batch: int, length: int, padded: bool) -> dict[str, Any]:
    """What a step reads: inputs, and the labels of the model's head.

    Raises `UnsupportedError` where the class has no loss of its own.
    """
    asked = Asked(face=face(model), batch=batch, length=length, padded=padded)
    return with_labels(asked, _inputs(asked))


def input_notes(model: Any) -> tuple[str, ...]:
    """What the batch takes for granted, for the reader."""
    return face(model).notes()


def _inputs(asked: Asked) -> dict[str, torch.Tensor]:
    main = _main(asked.face)
    made = MAKERS[main](asked)
    for name in asked.face.also(main):
        maker = MAKERS.get(name)
        if maker is None:
            raise UnsupportedError(
                f"the trace does not know the {name} that {asked.face.cls} reads: "
                "leave --trace out for the formulas' estimate"
            )
        made |= maker(asked)
    return made


def _main(face: Face) -> str:
    if face.main not in MAKERS:
        raise UnsupportedError(
            f"the trace does not know the {face.main} that {face.cls} reads: "
            "leave --trace out for the formulas' estimate"
        )
    return face.main
