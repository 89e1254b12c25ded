"""A ModelSpec of a real class built on the meta device, for comparisons with the library."""

from __future__ import annotations

from typing import Any

from willfit.dtypes import FLOAT32, DType
from willfit.meta.transformers_build import table_of
from willfit.scenario import ModelSpec
from willfit.sources.architecture import architecture_of


def meta_model(model_type: str, cls: str | None = None, **config: Any) -> Any:
    """The real model on the meta device: its declared class, or the causal LM of the type."""
    import torch
    import transformers

    loaded = transformers.AutoConfig.for_model(model_type, **config)
    with torch.device("meta"):
        if cls is not None:
            model = getattr(transformers, cls)(loaded)
        else:
            model = transformers.AutoModelForCausalLM.from_config(loaded)
    return model.eval()


def spec_of_model(model: Any, stored_dtype: DType = FLOAT32) -> ModelSpec:
    """The spec that describes a built model."""
    table = table_of(model, param_dtype=stored_dtype.name)
    config = model.config.to_dict()
    return ModelSpec(
        id=type(model).__name__,
        library="transformers",
        source="local",
        standing="built for a test",
        model_class=table.model_class,
        tensors=table.rows,
        stored_dtype=stored_dtype,
        architecture=architecture_of(config),
        config=config,
        no_split=table.no_split,
        composite=table.composite,
        keep_in_fp32=table.keep_in_fp32,
    )
