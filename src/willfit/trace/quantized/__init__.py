"""Quantised layers of a trace: on the fly or as a checkpoint stores them; one file a method."""

from __future__ import annotations

from willfit.trace.quantized.bitsandbytes import fake_quantized, quantize
from willfit.trace.quantized.compressed import known_shapes
from willfit.trace.quantized.experts import fused
from willfit.trace.quantized.loading import after_loading
from willfit.trace.quantized.methods import check_known, replace_layers
from willfit.trace.quantized.peft import known_to_peft
from willfit.trace.quantized.stored import Stored

__all__ = [
    "Stored",
    "after_loading",
    "check_known",
    "fake_quantized",
    "fused",
    "known_shapes",
    "known_to_peft",
    "quantize",
    "replace_layers",
]
