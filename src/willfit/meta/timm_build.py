"""timm models by name: built on the meta device, no weights, no memory."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from willfit.dtypes import FLOAT32
from willfit.errors import ModelNotFoundError, UnsupportedError
from willfit.meta.transformers_build import table_of
from willfit.scenario.model import ModelSpec


def timm_model(name: str) -> Any:
    """The module of ``timm/NAME`` on the meta device.

    Raises `UnsupportedError` where timm cannot be imported, `ModelNotFoundError` where it does
    not know the name.
    """
    try:
        import timm  # type: ignore[import-not-found, unused-ignore]
        import torch
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        raise UnsupportedError(
            f"timm cannot be imported here ({error}): it needs a torchvision that fits torch"
        ) from error
    short = name.removeprefix("timm/")
    if short.partition(".")[0] not in timm.list_models():
        raise ModelNotFoundError(f"timm {timm.__version__} has no model {short[:80]!r}")
    with torch.device("meta"):
        return timm.create_model(short, pretrained=False)


def build_timm(name: str) -> ModelSpec:
    """The spec of ``timm/NAME`` as timm itself builds it; raises as `timm_model` does."""
    model = timm_model(name)
    timm_version = importlib.metadata.version("timm")
    built = table_of(model)
    return ModelSpec(
        id=name,
        library="timm",
        source="timm",
        standing=f"built by timm {timm_version} on the meta device",
        model_class=built.model_class,
        tensors=built.rows,
        stored_dtype=FLOAT32,
        architecture=None,
        composite=built.composite,
        assumptions=("stored in float32, as timm publishes its weights",),
    )
