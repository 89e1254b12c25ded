"""bitsandbytes layers: built by transformers on the meta device, then with fake packed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from willfit.formulas.quantization import BLOCK, NESTED_BLOCK
from willfit.scenario.workload import Quantization
from willfit.trace.quantized.transformers_quantizer import quantize_by_transformers
from willfit.units import ceil_div


def quantize(model: torch.nn.Module, quantization: Quantization) -> None:
    """Linear layers become bitsandbytes' own, by transformers' own quantiser."""
    import transformers

    compute = quantization.compute_dtype
    extra: dict[str, Any] = {}
    if quantization.skip_modules is not None:
        extra["llm_int8_skip_modules"] = list(quantization.skip_modules)
    if compute is not None:
        extra["bnb_4bit_compute_dtype"] = getattr(torch, compute.name)
    make: Any = transformers.BitsAndBytesConfig
    settings = make(
        load_in_8bit=quantization.scheme == "int8",
        load_in_4bit=quantization.scheme != "int8",
        bnb_4bit_quant_type=quantization.scheme if quantization.scheme != "int8" else "fp4",
        bnb_4bit_use_double_quant=quantization.double_quant,
        **extra,
    )
    quantize_by_transformers(model, settings, stored=False)
    said: Any = model
    said.is_loaded_in_8bit = settings.load_in_8bit
    said.is_loaded_in_4bit = settings.load_in_4bit
    said.quantization_method = settings.quant_method


def fake_quantized(model: torch.nn.Module, mode: FakeTensorMode, dtype: torch.dtype) -> None:
    """Give every bitsandbytes layer a fake packed weight; ``Params4bit`` cannot be made fake."""
    import bitsandbytes

    layers: Any = bitsandbytes.nn
    for module in model.modules():
        if isinstance(module, layers.Linear4bit):
            _pack_4bit(module, mode, dtype)
        elif isinstance(module, layers.Linear8bitLt):
            _pack_8bit(module, mode)


def _pack_4bit(module: Any, mode: FakeTensorMode, dtype: torch.dtype) -> None:
    import bitsandbytes

    functional: Any = bitsandbytes.functional
    n, k = module.out_features, module.in_features
    blocks = ceil_div(n * k, BLOCK)
    nested = module.weight.compress_statistics
    quant_type = module.weight.quant_type
    with mode:
        packed = torch.empty(ceil_div(n * k, 2), 1, dtype=torch.uint8)
        state = functional.QuantState(
            absmax=torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32),
            shape=torch.Size((n, k)),
            code=torch.empty(16),
            blocksize=BLOCK,
            quant_type=quant_type,
            dtype=dtype,
        )
        if nested:
            state.nested = True
            state.offset = torch.empty(())
            state.state2 = functional.QuantState(
                absmax=torch.empty(ceil_div(blocks, NESTED_BLOCK)),
                code=torch.empty(256),
                blocksize=NESTED_BLOCK,
                dtype=torch.float32,
            )
        weight: Any = torch.nn.Parameter(packed, requires_grad=False)
    weight.quant_state = state
    weight.compress_statistics = nested
    weight.quant_type = quant_type
    weight.blocksize = BLOCK
    weight.bnb_quantized = True
    module._parameters["weight"] = weight
    module.quant_state = state
    module.support_avx512bf16_for_cpu = False  # a CPU's layout of the weights, not a GPU's


def _pack_8bit(module: Any, mode: FakeTensorMode) -> None:
    n, k = module.out_features, module.in_features
    with mode:
        weight: Any = torch.nn.Parameter(torch.empty(n, k, dtype=torch.int8), requires_grad=False)
        weight.SCB = torch.empty(n)
    weight.CB = weight.data
    weight.has_fp16_weights = False
    module._parameters["weight"] = weight
    module.state.CB, module.state.SCB = weight.CB, weight.SCB
    module.state.has_fp16_weights = False
