"""Layers of a stored method by transformers' own quantiser, on a machine without a GPU."""

from __future__ import annotations

from typing import Any

import torch


def quantize_as_stored(model: torch.nn.Module, config: Any) -> None:
    """Replace the layers that transformers would before it reads the checkpoint.

    ``validate_environment`` is left out: it asks for the GPU, and turns to dequantising without.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer: Any = AutoHfQuantizer.from_config(config, pre_quantized=True)
    quantizer.validate_environment = lambda *_, **__: None
    with torch.device("meta"):
        quantizer.preprocess_model(model=model, device_map={"": 0})
    said: Any = model
    said.hf_quantizer = quantizer
