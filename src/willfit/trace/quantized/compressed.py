"""compressed-tensors checkpoints by the library itself: on the first forward pass it unpacks them.

transformers 5.23 quantizers/quantizer_compressed_tensors.py; compressed-tensors 0.20
compressors/model_compressors/model_compressor.py `add_decompress_hook`: without
``use_optimized_inference`` every weight is in 16 bit after that, whatever it was stored in.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from willfit.errors import UnsupportedError
from willfit.trace.quantized.stored import Stored
from willfit.trace.quantized.transformers_quantizer import quantize_by_transformers
from willfit.trace.recorder import Recorder


def replace(model: torch.nn.Module, stored: Stored) -> tuple[str, ...]:
    """Its own packed layers, and the hook that unpacks them."""
    if importlib.util.find_spec("compressed_tensors") is None:
        raise UnsupportedError(
            f"the trace of {stored.spec.id}, which is stored in compressed-tensors, needs that "
            "library: pip install compressed-tensors, or leave --trace out"
        )
    import transformers

    make: Any = transformers.CompressedTensorsConfig
    quantize_by_transformers(
        model, make.from_dict(dict(stored.settings)), stored=True, validate=True
    )
    return (
        "compressed-tensors unpacks all weights to 16 bit on the first forward pass: transformers "
        "computes with them as they are stored only with use_optimized_inference, in fp8",
    )


def known_shapes(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Unpacking reads ``weight_shape``, the one stored tensor whose values decide sizes."""
    for module in model.modules():
        linear: Any = module
        for owned in (module._parameters, module._buffers):
            if owned.get("weight_shape") is None:
                continue
            real = torch.tensor([linear.out_features, linear.in_features])
            convert: Any = mode.fake_tensor_converter
            fake = convert.from_real_tensor(mode, real, make_constant=True)
            del owned["weight_shape"]
            module.register_buffer("weight_shape", fake)


def unpack_recorded(model: torch.nn.Module, recorder: Recorder) -> None:
    """The library's hook, with what it unpacks known as weights of their layers."""

    def unpack(whole: torch.nn.Module, _: Any) -> None:
        packed: Any = whole
        with recorder.outside():
            packed.hf_quantizer.compressor.decompress_model(whole)
        owners = (each for each in whole.modules() if hasattr(each, "quantization_scheme"))
        recorder.mark((each._parameters.get("weight") for each in owners), "weights")
        hook.remove()

    for module in model.modules():
        if hasattr(module, "ct_decompress_hook"):
            theirs: Any = module.ct_decompress_hook
            theirs.remove()
            hook = module.register_forward_pre_hook(unpack)
