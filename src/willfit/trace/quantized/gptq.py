"""GPTQ checkpoints: GPTQModel's kernel for the GPU, as optimum 2.3 chooses it.

github.com/ModelCloud/GPTQModel 7.3.4 utils/importer.py `select_quant_linear`: the highest
``SUPPORTS_FORMATS`` whose bits, group size, symmetry and device fit.
"""

from __future__ import annotations

import torch

from willfit.errors import UnsupportedError
from willfit.trace.cuda.gptqmodel import CudaOld, Dequantised, ExllamaV1, ExllamaV2, Machete, Marlin
from willfit.trace.quantized.linear import Kernel
from willfit.trace.quantized.stored import Stored, replace_linears


def replace(model: torch.nn.Module, stored: Stored) -> tuple[str, ...]:
    """Packed layers in place of the linear ones; says which kernel multiplies."""
    name = kernel_name(stored)
    replace_linears(model, stored, _kernel(name, stored))
    note = f"GPTQ computes with GPTQModel's {name} kernel"
    if stored.training:
        note += ", since only backend='auto_trainable' trains"
    return (note,)


def kernel_name(stored: Stored) -> str:
    """The kernel that the checkpoint's ``backend`` names, or the one taken by itself."""
    asked = str(stored.settings.get("backend") or "auto").lower()
    if stored.training:
        return "dequantising"
    if asked in ("auto", "none"):
        return _chosen(stored)
    for known in ("exllama_v1", "exllama_v2", "marlin", "machete", "cuda_old", "dequantising"):
        if known in asked:
            return known
    if asked in ("triton", "torch", "auto_trainable"):
        return "dequantising"
    raise UnsupportedError(
        f"the trace does not know GPTQ's backend {asked[:40]!r}: leave --trace out for the "
        "formulas' estimate"
    )


def _chosen(stored: Stored) -> str:
    bits, group = int(stored.quantization.bits), stored.quantization.group_size
    symmetric = bool(stored.settings.get("sym", True))
    if bits in (4, 8) and stored.sm in (100, 103, 110) and group in (-1, 32, 64, 128):
        return "machete"
    if bits in (4, 8) and stored.sm == 90 and group in (-1, 64, 128):
        return "machete"
    if bits in (4, 8) and symmetric and stored.sm >= 75 and group in (-1, 32, 64, 128):
        return "marlin"
    if bits == 4 and group in (-1, 32, 64, 128):
        return "exllama_v2"
    return "dequantising"


def _kernel(name: str, stored: Stored) -> Kernel:
    match name:
        case "marlin":
            reorders = (
                bool(stored.settings.get("desc_act")) and stored.quantization.group_size != -1
            )
            return Marlin(reads_zeros=False, reorders=reorders)
        case "machete":
            return Machete(symmetric=bool(stored.settings.get("sym", True)))
        case "exllama_v2":
            return ExllamaV2(batches=8, keeps_order=True)
        case "exllama_v1":
            return ExllamaV1(reorders=bool(stored.settings.get("desc_act")))
        case "cuda_old":
            return CudaOld()
        case _:
            return Dequantised()
