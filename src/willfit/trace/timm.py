"""timm's image models with the face of transformers' classes: a dict out, a loss for labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from willfit.errors import ModelNotFoundError, UnsupportedError
from willfit.meta.timm_build import timm_model


class ImageModel(torch.nn.Module):
    """A timm model, called as transformers' image classifiers are."""

    main_input_name = "pixel_values"

    def __init__(self, model: Any) -> None:
        """``model``: what ``timm.create_model`` made."""
        super().__init__()
        self.model = model
        channels, *size = model.default_cfg.get("input_size", (3, 224, 224))
        self.config = SimpleNamespace(image_size=tuple(size), num_channels=channels)

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Logits (B, classes), or features where the model has no head, and the mean loss."""
        logits = self.model(pixel_values)
        if labels is None:
            return {"logits": logits}
        if not getattr(self.model, "num_classes", 0):
            raise UnsupportedError(
                f"{type(self.model).__name__} is without a head here and has no loss to train with"
            )
        return {"logits": logits, "loss": functional.cross_entropy(logits, labels)}

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        """As timm calls it."""
        self.model.set_grad_checkpointing(True)

    def enable_input_require_grads(self) -> None:
        """Pixels need no gradient: timm's checkpoints are not reentrant."""


def build_image_model(name: str) -> ImageModel:
    """``timm/NAME`` on the meta device; raises `UnsupportedError` where timm is missing."""
    try:
        return ImageModel(timm_model(name))
    except ModelNotFoundError as error:
        raise UnsupportedError(f"{error}: leave --trace out") from error
