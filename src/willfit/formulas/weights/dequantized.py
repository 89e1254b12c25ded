"""Stored 8- and 4-bit floats on a GPU that cannot compute with them: bfloat16 after loading.

transformers 5.23 quantizers/quantizer_finegrained_fp8.py and quantizer_mxfp4.py
(`validate_environment` sets ``dequantize``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from willfit.dtypes import BFLOAT16
from willfit.scenario.machine import Machine
from willfit.scenario.model import ModelSpec, TensorRow
from willfit.scenario.workload import Workload
from willfit.sources.stored import QUANTIZED_MODULE

NEEDS_SM: Final = {"fp8": 89, "mxfp4": 75}
"""Compute capability from which transformers keeps a method's weights as they are stored."""


def on_machine(model: ModelSpec, workload: Workload, machine: Machine | None) -> ModelSpec:
    """The model as transformers loads it there; other engines have kernels of their own."""
    stored = model.quantization
    needed = NEEDS_SM.get(stored.method) if stored is not None else None
    other = workload.inference is not None and workload.inference.engine != "transformers"
    if stored is None or needed is None or machine is None or other:
        return model
    weakest = min(machine.gpus, key=lambda gpu: gpu.sm)
    if weakest.vendor != "nvidia" or weakest.sm >= needed:
        return model
    note = (
        f"{stored.method} weights become bfloat16 on loading: transformers computes with them from "
        f"sm_{needed}, this is sm_{weakest.sm}"
    )
    return replace(
        model,
        tensors=tuple(filter(None, map(_dequantized, model.tensors))),
        quantization=None,
        stored_dtype=BFLOAT16,
        assumptions=(*model.assumptions, note),
    )


def _dequantized(row: TensorRow) -> TensorRow | None:
    """A stored weight in bfloat16; its scales go."""
    if row.module != QUANTIZED_MODULE:
        return row
    last = row.name.rpartition(".")[2]
    if last.endswith("_blocks"):  # two 4-bit numbers in a byte
        shape = (*row.shape[:-1], 2 * row.shape[-1])
        return replace(row, name=row.name.removesuffix("_blocks"), shape=shape, dtype=BFLOAT16,
                       module="Experts")  # fmt: skip
    if "scale" in last:
        return None
    module = "Linear" if last == "weight" else "Experts"
    return replace(row, dtype=BFLOAT16, module=module)
