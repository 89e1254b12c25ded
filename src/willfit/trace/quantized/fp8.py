"""FP8 checkpoints of transformers' own format (DeepSeek-V3, Qwen3-FP8): its layers and experts.

transformers 5.23 quantizers/quantizer_finegrained_fp8.py, integrations/finegrained_fp8.py.
"""

from __future__ import annotations

from typing import Any

import torch

from willfit.trace.quantized.stored import Stored
from willfit.trace.quantized.transformers_quantizer import quantize_by_transformers


def replace(model: torch.nn.Module, stored: Stored) -> tuple[str, ...]:
    """``FP8Linear`` and ``FP8Experts`` by transformers' own quantiser."""
    import transformers

    make: Any = transformers.FineGrainedFP8Config
    quantize_by_transformers(model, make.from_dict(dict(stored.settings)), stored=True)
    return (
        "FP8 computes with the Triton kernels of kernels-community/finegrained-fp8; DeepGEMM, "
        "where a CUDA toolkit is installed, also makes an 8-bit copy of each input",
    )
