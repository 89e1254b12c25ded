"""PEFT's own LoRA layers around packed ones, which it else knows by GPTQModel's classes."""

from __future__ import annotations

from typing import Any

import torch

from willfit.trace.quantized.linear import StoredLinear


def known_to_peft(settings: Any, model: torch.nn.Module) -> None:
    """Tell a ``LoraConfig`` what goes around layers of GPTQ and AWQ (lora/gptq.py, awq.py)."""
    method = getattr(model, "quantization_method", None)
    if method not in ("gptq", "awq") or not hasattr(settings, "_register_custom_module"):
        return
    from peft.tuners.lora import awq, gptq

    around: Any = awq.AwqLoraLinear if method == "awq" else gptq.GPTQLoraLinear
    settings._register_custom_module({StoredLinear: around})
