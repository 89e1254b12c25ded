"""Temporaries of quantised matrix products (bitsandbytes 0.50.2, CUDA path).

backends/cuda/ops.py `gemm_4bit`, `_gemm_4bit_use_custom_cuda`; autograd/_functions.py for int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.dtypes import FLOAT16, FLOAT32, DType
from willfit.formulas.quantization import BLOCK
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import ModelSpec
from willfit.scenario.workload import Quantization
from willfit.units import ceil_div

CUSTOM_KERNEL_ROWS: Final = 4
"""Up to this many rows the fused 4-bit kernel always runs and dequantises nothing."""


EXLLAMA_ROWS: Final = 2048
"""Rows that the exllama kernels size their input scratch for (GPTQModel and AutoGPTQ default)."""


def stored_scratch_bytes(model: ModelSpec) -> int:
    """Scratch that a pre-quantised model's kernels hold from the first call on.

    GPTQ 4 bit (exllama): one weight dequantised, 2·N·K of the largest, and 2·2,048·max(N, K).
    Agrees within 35 MB with three published sizes (0.5B, 7B, 32B); read from no source: a lead.
    """
    quantization = model.quantization
    if quantization is None or quantization.method != "gptq" or quantization.bits != 4:
        return 0
    shapes = [
        (row.shape[0] * 8, row.shape[1]) for row in model.tensors if row.name.endswith("qweight")
    ]
    if not shapes:
        return 0
    largest = max(rows * columns for rows, columns in shapes)
    widest = max(max(shape) for shape in shapes)
    return 2 * largest + 2 * EXLLAMA_ROWS * widest


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """How the model's linear layers compute, as far as memory is concerned."""

    dtype: DType
    """Type of the activations around the layer."""
    quantization: Quantization | None
    largest_elements: int
    """Elements of the largest quantised weight."""

    @classmethod
    def of(cls, weights: LoadedWeights) -> Gemm:
        """The products of these weights."""
        known = weights.arithmetic is not None
        return cls(
            dtype=weights.dtype,
            quantization=weights.arithmetic,
            largest_elements=weights.largest_quantized_elements if known else 0,
        )

    @property
    def compute_dtype(self) -> DType:
        """Type that the product is computed in: ``bnb_4bit_compute_dtype``, float32 by default."""
        if self.quantization is None or self.quantization.scheme == "int8":
            return self.dtype
        return self.quantization.compute_dtype or FLOAT32

    def forward_temporary_bytes(self, rows: int, inner: int, outer: int) -> int:
        """Extra bytes inside one product of (rows × inner) with (outer × inner), output excluded.

        4 bit: the dequantised weight in the compute type, nested absmax 2·4·NK/64, and the input
        and output in the compute type where it differs: the weight goes before the output is cast.
        int8: row statistics 4·M; then |A| in float16 and a bool beside the int8 input, 4·M·K (and a
        float16 copy of the input where it has another type), or the int8 input, the int32 product
        and its float16 form where the output has another type. Measured to the byte on an H200.
        """
        if self.quantization is None:
            return 0
        if self.quantization.scheme == "int8":
            return 4 * rows + self._int8_bytes(rows, inner, outer)
        compute = self.compute_dtype
        dequantised = 0
        if rows > CUSTOM_KERNEL_ROWS:
            elements = inner * outer
            nested = 8 * ceil_div(elements, BLOCK) if self.quantization.double_quant else 0
            dequantised = compute.num_bytes(elements) + nested
        if compute is self.dtype:
            return dequantised
        product = compute.num_bytes(rows * outer)
        before = dequantised + product - self.dtype.num_bytes(rows * outer)
        return compute.num_bytes(rows * inner) + max(before, product)

    def _int8_bytes(self, rows: int, inner: int, outer: int) -> int:
        half = 0 if self.dtype is FLOAT16 else 2
        quantising = (4 + half) * rows * inner - self.dtype.num_bytes(rows * outer)
        return max(quantising, rows * inner + (4 + half) * rows * outer)
