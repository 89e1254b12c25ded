"""FBGEMM's FP8 checkpoints (Llama-3.1-405B-Instruct-FP8), by transformers' own class.

transformers 5.23 integrations/fbgemm_fp8.py `FbgemmFp8Linear`, which only FBGEMM's operators run.
"""

from __future__ import annotations

from typing import Any

import torch

from willfit.errors import UnsupportedError
from willfit.trace.quantized.stored import Stored


def replace(model: torch.nn.Module, stored: Stored) -> tuple[str, ...]:
    """Linear layers that quantise their input by row."""
    if stored.training:
        raise UnsupportedError(
            f"transformers does not train {stored.spec.id} as it is stored, in fbgemm_fp8: name "
            "a 16-bit copy of it"
        )
    if stored.sm < 90:
        raise UnsupportedError(
            f"transformers runs fbgemm_fp8 from sm_90 on, and this is sm_{stored.sm}: name "
            "another GPU or another copy of the model"
        )
    for path, module in list(model.named_modules()):
        if path in stored.tensors and isinstance(module, torch.nn.Linear):
            with torch.device("meta"):
                model.set_submodule(path, _linear(module))
    return ("FBGEMM's FP8 product is taken to need no workspace",)


def _linear(replaced: torch.nn.Linear) -> torch.nn.Module:
    from transformers.integrations import fbgemm_fp8

    make: Any = fbgemm_fp8.FbgemmFp8Linear
    made: torch.nn.Module = make(
        replaced.in_features, replaced.out_features, replaced.bias is not None
    )
    return made.requires_grad_(False)
