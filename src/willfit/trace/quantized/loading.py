"""What a library does with the layers once their tensors are on the device."""

from __future__ import annotations

from typing import Any

import torch

from willfit.trace.quantized.compressed import unpack_recorded
from willfit.trace.quantized.linear import StoredLinear
from willfit.trace.recorder import Recorder


def after_loading(model: torch.nn.Module, recorder: Recorder) -> None:
    """The scratch that the layers share, then each layer's tensors in its kernel's order.

    GPTQModel 7.3.4 utils/model.py `gptqmodel_post_init`. Called with the recorder at work.
    """
    layers = [module for module in model.modules() if isinstance(module, StoredLinear)]
    scratch = max((layer.kernel.scratch_bytes(layer) for layer in layers), default=0)
    if scratch:
        holder: Any = model
        holder.device_tensors = torch.empty(scratch, dtype=torch.uint8)
        recorder.mark([holder.device_tensors], "workspaces")
    for layer in layers:
        layer.kernel.settle(layer)
        states = [tensor for name, tensor in layer.named_buffers() if name != "qweight"]
        recorder.mark(states, "quantization_state")
    unpack_recorded(model, recorder)
