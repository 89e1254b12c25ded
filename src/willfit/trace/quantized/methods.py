"""Which file builds which method's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from willfit.errors import UnsupportedError
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import ModelSpec
from willfit.trace.quantized import awq, compressed, fbgemm, fp8, gptq, mxfp4
from willfit.trace.quantized.stored import Stored

_Replace = Callable[[torch.nn.Module, Stored], tuple[str, ...]]

METHODS: Final[Mapping[str, _Replace]] = {
    "gptq": gptq.replace,
    "awq": awq.replace,
    "compressed-tensors": compressed.replace,
    "fbgemm_fp8": fbgemm.replace,
    "fp8": fp8.replace,
    "mxfp4": mxfp4.replace,
}
"""Besides those of bitsandbytes, which quantises on the fly too."""


def check_known(spec: ModelSpec, weights: LoadedWeights) -> None:
    """Raises `UnsupportedError` naming a method whose layers cannot be built."""
    stored = spec.quantization
    if stored is not None and weights.arithmetic is None and stored.method not in METHODS:
        raise UnsupportedError(
            f"the trace cannot build the layers of {spec.id}, which is stored in "
            f"{stored.method}: leave --trace out for the formulas' estimate"
        )


def replace_layers(model: torch.nn.Module, stored: Stored) -> tuple[str, ...]:
    """The method's layers in place of the ordinary ones; what was assumed of its kernels."""
    method = stored.quantization.method
    notes = METHODS[method](model, stored)
    said: Any = model
    said.quantization_method = method
    return notes
