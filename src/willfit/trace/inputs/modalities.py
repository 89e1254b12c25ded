"""Tensors of each kind of input, by the name that forward passes give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from willfit.errors import UnsupportedError
from willfit.trace.inputs.model import Asked, Face

Tensors = dict[str, torch.Tensor]
CHOICES: Final = 2
"""Answers of a multiple-choice question."""
IMAGE_SIZE: Final = 224
"""Pixels of a side where the config names no size (the size that ImageNet's models take)."""


def token_ids(asked: Asked) -> Tensors:
    """(B, S) ids, with a mask where the batch is padded; (B, answers, S) of multiple choice."""
    answers = (CHOICES,) if asked.face.cls.endswith("ForMultipleChoice") else ()
    shape = (asked.batch, *answers, _text_len(asked))
    made = {"input_ids": torch.zeros(shape, dtype=torch.int64)}
    if asked.padded and "attention_mask" in asked.face.names:
        made["attention_mask"] = torch.ones(shape, dtype=torch.int64)
    return made


def decoder_ids(asked: Asked) -> Tensors:
    """(B, S) ids of the decoder, no more than it has positions for."""
    return {"decoder_input_ids": torch.zeros((asked.batch, decoder_len(asked)), dtype=torch.int64)}


def decoder_len(asked: Asked) -> int:
    """Tokens of the decoder's side: the asked length, Whisper's 448 at most."""
    return min(asked.length, int(asked.face.fact("max_target_positions") or asked.length))


def pixels(asked: Asked) -> Tensors:
    """(B, C, H, W), or (B, T, C, H, W) of a video."""
    channels = asked.face.fact("num_channels", "in_channels", "in_chans") or 3
    height, width = image_size(asked.face)
    frames = asked.face.fact("num_frames")
    shape = (asked.batch, *((frames,) if frames else ()), channels, height, width)
    return {"pixel_values": torch.zeros(shape, dtype=asked.face.dtype)}


def image_size(face: Face) -> tuple[int, int]:
    """Height and width that the config names, `IMAGE_SIZE` where it names none."""
    size = face.fact("image_size", "input_size")
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    if isinstance(size, Sequence):
        return int(size[0]), int(size[1])
    return int(size or IMAGE_SIZE), int(size or IMAGE_SIZE)


def features(asked: Asked) -> Tensors:
    """Log-mel frames: (B, mels, 2·positions) of Whisper, (B, T, width) of the others."""
    face = asked.face
    shape: tuple[int, ...]
    if face.fact("num_mel_bins") is not None and face.fact("max_source_positions") is not None:
        shape = (face.fact("num_mel_bins"), 2 * face.fact("max_source_positions"))
    elif face.fact("feature_projection_input_dim") is not None:
        shape = (asked.length, face.fact("feature_projection_input_dim"))
    elif face.fact("input_feat_per_channel") is not None:
        width = face.fact("input_feat_per_channel") * (face.fact("input_channels") or 1)
        shape = (asked.length << (face.fact("num_conv_layers") or 0), width)
    else:
        raise _unknown(face, "input_features")
    return {"input_features": torch.zeros((asked.batch, *shape), dtype=face.dtype)}


def sound(asked: Asked) -> Tensors:
    """A waveform of so many samples that its convolutions leave S frames, or AST's spectrogram.

    A convolution of kernel k and stride s leaves n frames of (n − 1)·s + k samples.
    """
    face = asked.face
    if face.fact("num_mel_bins") is not None and face.fact("max_length") is not None:
        shape: tuple[int, ...] = (face.fact("max_length"), face.fact("num_mel_bins"))
    elif face.fact("conv_stride") is not None and face.fact("conv_kernel") is not None:
        samples = asked.length
        for stride, kernel in zip(
            reversed(face.fact("conv_stride")), reversed(face.fact("conv_kernel")), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        shape = (samples,)
    else:
        raise _unknown(face, "input_values")
    return {"input_values": torch.zeros((asked.batch, *shape), dtype=face.dtype)}


def series(asked: Asked) -> Tensors:
    """(B, T, C) past values of time series."""
    length, channels = (asked.face.fact(n) for n in ("context_length", "num_input_channels"))
    if length is None or channels is None:
        raise _unknown(asked.face, "past_values")
    values = torch.zeros((asked.batch, length, channels), dtype=asked.face.dtype)
    return {"past_values": values}


MAKERS: Final[dict[str, Callable[[Asked], Tensors]]] = {
    "input_ids": token_ids,
    "pixel_values": pixels,
    "input_features": features,
    "input_values": sound,
    "past_values": series,
    "decoder_input_ids": decoder_ids,
}
"""Makers by the name of the argument."""


def _text_len(asked: Asked) -> int:
    """The asked length; a text beside an image is as long as its table of positions at most."""
    if "pixel_values" not in asked.face.names or asked.face.generates or asked.face.text_alone:
        return asked.length
    longest: Any = asked.face.fact("max_position_embeddings")
    return min(asked.length, int(longest or asked.length))


def _unknown(face: Face, name: str) -> UnsupportedError:
    return UnsupportedError(
        f"the trace does not know the size of the {name} that {face.cls} reads: "
        "leave --trace out for the formulas' estimate"
    )
