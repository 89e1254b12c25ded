"""bitsandbytes' CUDA path: what its operators allocate inside, and the int8 product it takes.

bitsandbytes 0.50.2 backends/cuda/ops.py, autograd/_functions.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from willfit.formulas.gemm import CUSTOM_KERNEL_ROWS
from willfit.formulas.quantization import BLOCK
from willfit.trace.cuda.hidden import Call, Hidden, Inside
from willfit.units import ceil_div


def temporaries() -> dict[Any, Hidden]:
    """Rows by operator."""
    import bitsandbytes  # noqa: F401 -- defines its operators

    ops: Any = torch.ops.bitsandbytes
    return {
        ops.gemm_4bit.default: _gemm_4bit,
        ops.int8_vectorwise_quant.default: _int8_quant,
        ops.int8_scaled_mm.default: _int8_product,
    }


def products() -> dict[Any, Inside]:
    """Operators that call ``F.linear`` inside, by when they do."""
    import bitsandbytes  # noqa: F401 -- defines its operators

    ops: Any = torch.ops.bitsandbytes
    return {ops.gemm_4bit.default: _dequantises}


def _dequantises(call: Call) -> bool:
    """Backends/cuda/ops.py `_dequant_linear_fallback`, taken above a few rows."""
    rows = call.args[0]
    return rows.numel() // rows.shape[-1] > CUSTOM_KERNEL_ROWS  # type: ignore[no-any-return]


def replacements() -> list[tuple[Any, str, Any]]:
    """Functions that a CPU has otherwise: (owner, name, what takes their place)."""
    import bitsandbytes

    return [(bitsandbytes, "matmul", matmul)]


def _gemm_4bit(call: Call) -> Iterable[int]:
    """More than a few rows: the weight dequantised in the type of the input, N·K·e.

    With nested absmax two float32 copies of it, 2·4·⌈NK/64⌉, before.
    """
    rows, shape = call.args[0], call.args[2]
    if not _dequantises(call):
        return
    elements = shape[0] * shape[1]
    if call.kwargs.get("absmax_8bit") is not None:
        yield 4 * ceil_div(elements, BLOCK)
        yield 4 * ceil_div(elements, BLOCK)
    yield elements * rows.element_size()


def _int8_quant(call: Call) -> Iterable[int]:
    """The search for outliers: |A| in float16 and a bool of what is over the threshold."""
    elements = call.args[0].numel()
    return (2 * elements, elements)


def _int8_product(call: Call) -> Iterable[int]:
    """The int32 product and, where the output has another type, its float16 form."""
    yield 4 * call.out.numel()
    if call.out.dtype != torch.float16:
        yield 2 * call.out.numel()


def matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor | None = None,
    state: Any = None,
    threshold: float = 0.0,  # noqa: ARG001 -- bitsandbytes' own signature
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """``bitsandbytes.matmul`` as on CUDA: a CPU takes another function when training.

    Outliers are data; none is assumed, and what their search allocates is a row above.
    """
    from bitsandbytes.autograd import _functions

    product: Any = _functions.MatMul8bitLt
    state.threshold = 0.0
    return product.apply(a, b, out, bias, state)  # type: ignore[no-any-return]
