"""timm models by name: built on the meta device, no weights, no memory."""

from __future__ import annotations

from typing import Any

from willfit.dtypes import FLOAT32
from willfit.errors import ModelNotFoundError, UnsupportedError
from willfit.meta.transformers_build import table_of
from willfit.scenario.model import ModelSpec


def build_timm(name: str) -> ModelSpec:
    """The spec of ``timm/NAME`` as timm itself builds it.

    Raises `UnsupportedError` where timm cannot be imported, `ModelNotFoundError` where it does
    not know the name.
    """
    try:
        import timm  # type: ignore[import-not-found, unused-ignore]
        import torch
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        raise UnsupportedError(f"timm cannot be imported here: {error}") from error
    short = name.removeprefix("timm/")
    if short.partition(".")[0] not in timm.list_models():
        raise ModelNotFoundError(f"timm {timm.__version__} has no model {short[:80]!r}")
    with torch.device("meta"):
        model: Any = timm.create_model(short, pretrained=False)
    built = table_of(model)
    return ModelSpec(
        id=name,
        library="timm",
        source="timm",
        standing=f"built by timm {timm.__version__} on the meta device",
        model_class=built.model_class,
        tensors=built.rows,
        stored_dtype=FLOAT32,
        architecture=None,
        composite=built.composite,
        assumptions=("stored in float32, as timm publishes its weights",),
    )
