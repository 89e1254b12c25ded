"""AWQ checkpoints: GPTQModel's kernel for the GPU, as transformers 5.23 integrations/awq.py asks.

github.com/ModelCloud/GPTQModel 7.3.4 utils/importer.py `select_quant_linear`.
"""

from __future__ import annotations

import torch

from willfit.errors import UnsupportedError
from willfit.trace.cuda.gptqmodel import AwqGemm, ExllamaV2, Machete, Marlin
from willfit.trace.quantized.linear import Kernel
from willfit.trace.quantized.stored import Stored, replace_linears


def replace(model: torch.nn.Module, stored: Stored) -> tuple[str, ...]:
    """Packed layers in place of the linear ones; says which kernel multiplies."""
    layout = str(stored.settings.get("version") or stored.settings.get("format") or "gemm").lower()
    if layout != "gemm":
        raise UnsupportedError(
            f"the trace knows AWQ's gemm layout, not {layout[:40]!r}: leave --trace out for the "
            "formulas' estimate"
        )
    name = kernel_name(stored)
    replace_linears(model, stored, _kernel(name, stored))
    note = f"AWQ computes with GPTQModel's {name} kernel"
    if stored.training:
        note += ", since only backend='auto_trainable' trains"
    return (note,)


def kernel_name(stored: Stored) -> str:
    """The kernel that the checkpoint's ``backend`` names, or the one taken by itself."""
    asked = str(stored.settings.get("backend") or "auto").lower()
    if stored.training or asked in ("gemm", "auto_trainable"):
        return "gemm"
    if asked not in ("auto", "none", "autoawq"):
        for known in ("exllama_v2", "marlin", "machete"):
            if known in asked:
                return known
        raise UnsupportedError(
            f"the trace does not know AWQ's backend {asked[:40]!r}: leave --trace out for the "
            "formulas' estimate"
        )
    if stored.sm in (90, 100, 103, 110):
        return "machete"
    return "marlin" if stored.sm >= 80 else "exllama_v2"


def _kernel(name: str, stored: Stored) -> Kernel:
    match name:
        case "marlin":
            return Marlin(reads_zeros=True, reorders=False)
        case "machete":
            return Machete(symmetric=stored.settings.get("zero_point") is False)
        case "exllama_v2":
            return ExllamaV2(batches=1, keeps_order=False)
        case _:
            return AwqGemm()
