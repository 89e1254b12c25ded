"""Quantised layers by transformers' own quantiser, on a machine without a GPU."""

from __future__ import annotations

from typing import Any

import torch


def quantize_by_transformers(
    model: torch.nn.Module, config: Any, *, stored: bool, validate: bool = False
) -> None:
    """Replace the layers that transformers would before it reads the checkpoint.

    ``stored``: the checkpoint is quantised, not its weights while they load. ``validate``: let the
    method look at its environment. Most ask for the GPU there, and refuse or turn to dequantising
    without one.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer: Any = AutoHfQuantizer.from_config(config, pre_quantized=stored)
    if validate:
        quantizer.validate_environment()
    with torch.device("meta"):
        quantizer.preprocess_model(model=model, device_map={"": 0})
    said: Any = model
    said.hf_quantizer = quantizer
    said.config._is_quantized = True  # flash attention then casts to the config's type
