"""Temporaries of quantised matrix products (bitsandbytes 0.50.2, CUDA path).

backends/cuda/ops.py `gemm_4bit`, `_gemm_4bit_use_custom_cuda`; autograd/_functions.py for int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.dtypes import FLOAT16, FLOAT32, DType
from willfit.formulas.quantization import BLOCK
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import ModelSpec
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Quantization
from willfit.units import ceil_div

CUSTOM_KERNEL_ROWS: Final = 4
"""Up to this many rows the fused 4-bit kernel always runs and dequantises nothing."""


FUSED_4BIT_SINCE: Final = "0.50"
"""bitsandbytes release whose 4-bit kernels multiply several rows and dequantise straight into the
product's type (pull request 1949); before, one row was multiplied as it is packed, and more made
the whole weight in its own type and a copy (`MatMul4Bit`: ``dequantize_4bit(B).to(A.dtype)``)."""


EXLLAMA_ROWS: Final = 2048
"""Rows that the exllama kernels size their input scratch for (GPTQModel and AutoGPTQ default)."""


EXLLAMA_2_BATCHES: Final = 8
"""Batches of `EXLLAMA_ROWS` that the second version's scratch is for (``max_batch_size``)."""
GPTQMODEL_SINCE: Final = "5.0"
"""transformers release that has GPTQModel alone, whose kernel is Marlin or Machete on most GPUs."""
_MARLIN_SINCE: Final = 75
"""Compute capability from which GPTQModel takes Marlin for symmetric weights."""


def stored_scratch_bytes(model: ModelSpec, stack: Stack, gpu: Gpu | None) -> int:
    """Scratch that a pre-quantised model's kernels hold from the first call on.

    GPTQ 4 bit by exllama: one weight dequantised, 2·N·K of the largest; the first version also
    2·2,048·max(N, K) where rows are reordered (AutoGPTQ `autogptq_post_init`: ``temp_dq``,
    ``temp_state``), the second 4·2,048·8·N (`scratch_space_fixed`). To the byte what Llama-3.1-8B
    held on an A100. Marlin, Machete and AutoGPTQ's older kernel hold none.
    """
    quantization = model.quantization
    if quantization is None or quantization.method != "gptq" or quantization.bits != 4:
        return 0
    shapes = [
        (row.shape[-2] * 8, row.shape[-1]) for row in model.tensors if row.name.endswith("qweight")
    ]
    kernel = _gptq_kernel(model, stack, gpu)
    if not shapes or not kernel:
        return 0
    largest = 2 * max(rows * columns for rows, columns in shapes)
    if kernel == 2:
        return max(
            2 * rows * columns + 4 * EXLLAMA_ROWS * EXLLAMA_2_BATCHES * columns
            for rows, columns in shapes
        )
    reorders = bool(_stored_settings(model).get("desc_act"))
    return largest + (2 * EXLLAMA_ROWS * max(map(max, shapes)) if reorders else 0)


def _gptq_kernel(model: ModelSpec, stack: Stack, gpu: Gpu | None) -> int:
    """Version of exllama that runs; 0 for another kernel."""
    settings = _stored_settings(model)
    backend = str(settings.get("backend") or "")
    if "exllama_v" in backend:
        return 2 if "exllama_v2" in backend else 1
    if backend not in ("", "auto") or not settings.get("use_exllama", True):
        return 0
    if not stack.at_least("transformers", GPTQMODEL_SINCE):
        return 1
    symmetric = bool(settings.get("sym", True))
    return 0 if symmetric and (gpu is None or gpu.sm >= _MARLIN_SINCE) else 2


def _stored_settings(model: ModelSpec) -> Mapping[str, Any]:
    found = model.config.get("quantization_config")
    return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """How the model's linear layers compute, as far as memory is concerned."""

    dtype: DType
    """Type of the activations around the layer."""
    quantization: Quantization | None
    largest_elements: int
    """Elements of the largest quantised weight."""
    copies_dequantised: bool = False
    """Whether a 4-bit weight is dequantised in the weights' type first (`FUSED_4BIT_SINCE`)."""

    @classmethod
    def of(cls, weights: LoadedWeights, stack: Stack | None = None) -> Gemm:
        """The products of these weights, by today's bitsandbytes where no stack is given."""
        known = weights.arithmetic is not None
        largest = weights.largest_quantized_elements if known else 0
        return cls(  # of no class that bitsandbytes replaces, nothing is quantised (Falcon)
            dtype=weights.dtype,
            quantization=weights.arithmetic if largest else None,
            largest_elements=largest,
            copies_dequantised=stack is not None
            and not stack.at_least("bitsandbytes", FUSED_4BIT_SINCE),
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
        Before bitsandbytes 0.50 another weight in the working type where the types differ, until
        the output is made, and nested absmax, 4·NK/64, until the weight is.
        int8: row statistics 4·M; then |A| in float16 and a bool beside the int8 input, 4·M·K (and a
        float16 copy of the input where it has another type), or the int8 input, the int32 product
        and its float16 form where the output has another type. Measured to the byte on an H200.
        """
        if self.quantization is None:
            return 0
        if self.quantization.scheme == "int8":
            return 4 * rows + self._int8_bytes(rows, inner, outer)
        compute = self.compute_dtype
        dequantised = making = 0
        if rows > CUSTOM_KERNEL_ROWS:
            elements = inner * outer
            nested = 4 * ceil_div(elements, BLOCK) if self.quantization.double_quant else 0
            dequantised = compute.num_bytes(elements)
            if self.copies_dequantised:
                own = self.dtype.num_bytes(elements)
                making = own + max(nested, dequantised if compute is not self.dtype else 0)
            else:
                dequantised += 2 * nested
        output = self.dtype.num_bytes(rows * outer)
        if compute is self.dtype:
            return max(dequantised, making - output)
        product = compute.num_bytes(rows * outer)
        before = max(dequantised + product, making) - output
        return compute.num_bytes(rows * inner) + max(before, product)

    def _int8_bytes(self, rows: int, inner: int, outer: int) -> int:
        half = 0 if self.dtype is FLOAT16 else 2
        quantising = (4 + half) * rows * inner - self.dtype.num_bytes(rows * outer)
        return max(quantising, rows * inner + (4 + half) * rows * outer)
