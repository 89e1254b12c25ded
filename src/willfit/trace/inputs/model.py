"""What a model's class says of its inputs: names, the main one, and the config's facts of each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch

_IMAGE_TOKENS: Final = ("image_token_id", "image_token_index", "media_token_id")
"""Config fields of models whose images stand among the tokens of the text."""
_PARTS: Final = ("vision_config", "audio_config", "text_config", "encoder", "decoder")


@dataclass(frozen=True, kw_only=True)
class Face:
    """A model as its caller sees it; adapters around it change nothing of that."""

    model: Any

    @property
    def cls(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @cached_property
    def names(self) -> dict[str, inspect.Parameter]:
        """Arguments of the forward pass."""
        return dict(inspect.signature(self.model.forward).parameters)

    @property
    def main(self) -> str:
        """``main_input_name``, which token ids have where a class says nothing."""
        return str(getattr(self.model, "main_input_name", "input_ids"))

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights, which sound and pixels are converted to."""
        floats = (p.dtype for p in self.model.parameters() if p.dtype.is_floating_point)
        return next(floats, torch.float32)

    @property
    def generates(self) -> bool:
        """Whether the class has a language model's head and ``generate``."""
        return bool(getattr(self.model, "can_generate", lambda: False)())

    @property
    def encoder_decoder(self) -> bool:
        """Whether a decoder reads what an encoder made."""
        return bool(getattr(self.config, "is_encoder_decoder", False))

    def takes(self, name: str) -> bool:
        """Whether the forward pass has an argument, or hands it on to a base that has.

        ``GraniteMoeHybridForCausalLM`` takes ``use_cache`` for its base.
        """
        if name in self.names:
            return True
        kinds = (parameter.kind for parameter in self.names.values())
        base = getattr(self.model, "base_model", self.model)
        if inspect.Parameter.VAR_KEYWORD not in kinds or base is self.model:
            return False
        return name in inspect.signature(base.forward).parameters

    @property
    def text_alone(self) -> bool:
        """Whether images go among the tokens of a text, which a batch of text does without."""
        return any(getattr(self.config, name, None) is not None for name in _IMAGE_TOKENS)

    def fact(self, *names: str) -> Any:
        """The first of these fields that the config or one of its parts has; None without."""
        parts = [self.config, *(getattr(self.config, part, None) for part in _PARTS)]
        found = (getattr(part, name, None) for name in names for part in parts if part is not None)
        return next((value for value in found if value is not None), None)

    def also(self, main: str) -> Iterator[str]:
        """Inputs besides the main one: those without a default, and the image beside a text."""
        for name, parameter in self.names.items():
            if name == main or parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                continue
            beside = name == "pixel_values" and not self.generates and not self.text_alone
            asked_with = main == "pixel_values" and name == "input_ids" and not self.encoder_decoder
            if parameter.default is inspect.Parameter.empty or beside or asked_with:
                yield name

    def notes(self) -> tuple[str, ...]:
        """What the batch leaves out or takes as usual."""
        if self.text_alone:
            return ("text alone: an image's tokens and the vision tower's work come on top",)
        if self.main == "input_values" and self.fact("conv_stride") is not None:
            return ("a token of the context is a frame of sound (20 ms at 16 kHz)",)
        if self.main == "input_features" and self.fact("max_source_positions") is not None:
            return ("sound padded to the encoder's whole window, as its processor does",)
        return ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A batch to be made."""

    face: Face
    batch: int
    length: int
    """Tokens of a sequence; what has a size of its own (images, Whisper's sound) keeps that."""
    padded: bool
    """Whether a mask comes along."""


def face(model: Any) -> Face:
    """The face of a model; of its base where PEFT wraps it."""
    return Face(model=getattr(model, "get_base_model", lambda: model)())
