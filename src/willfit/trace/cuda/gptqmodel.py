"""Kernels of GPTQModel 7.3.4 for GPTQ and AWQ: what each allocates on CUDA.

github.com/ModelCloud/GPTQModel at f4c327a: gptqmodel/nn_modules/qlinear/*.py, gptqmodel_ext/*.
transformers 5.23 computes with them (optimum 2.3 chooses for GPTQ, integrations/awq.py for AWQ).
"""

from __future__ import annotations

from typing import Any, Final

import torch

from willfit.formulas.gemm import EXLLAMA_ROWS
from willfit.trace.quantized.linear import Kernel, StoredLinear
from willfit.units import round_up

MULTIPROCESSORS: Final = 108
"""Streaming multiprocessors that scratch is sized by: an A100's. A T4 has 40, an H100 132."""

OLD_KERNEL_ROWS: Final = 128
"""Rows from which AutoGPTQ's older kernel dequantises (``kernel_switch_threshold``)."""


def _rows(x: torch.Tensor) -> int:
    return x.numel() // x.shape[-1]


def _output(layer: StoredLinear, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], layer.out_features), dtype=dtype or x.dtype)


def _dequantised(layer: StoredLinear, dtype: torch.dtype) -> torch.Tensor:
    """The whole weight, [K, N]."""
    return layer.weight.new_empty((layer.in_features, layer.out_features), dtype=dtype)


class Marlin(Kernel):
    """sm_75 and later. qlinear/marlin.py, marlin_awq.py; gptq_marlin.cu `gptq_marlin_gemm`."""

    def __init__(self, *, reads_zeros: bool, reorders: bool) -> None:
        """``reads_zeros``: AWQ; ``reorders``: GPTQ's ``desc_act``."""
        self._reads_zeros = reads_zeros
        self._reorders = reorders

    def settle(self, layer: StoredLinear) -> None:
        """Weights and scales in the kernel's order; what is not read goes; 128 locks come."""
        layer.register_buffer("workspace", layer.weight.new_empty(128, dtype=torch.int32))
        if self._reorders:
            layer.register_buffer("g_idx_sort_indices", torch.empty_like(layer.g_idx))
        else:
            layer.drop("g_idx")
        if not self._reads_zeros:
            layer.drop("qzeros")
        layer.repack("qweight")
        layer.repack("scales")
        if self._reads_zeros:
            layer.repack("qzeros")

    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """Output, float32 partial sums 4·SMs·min(64, M↑16)·256, M·K where columns are reordered.

        The bias is added inside.
        """
        out = _output(layer, x)
        block = min(round_up(_rows(x), 16), 64)
        partial = x.new_empty(MULTIPROCESSORS * block * 256, dtype=torch.float32)
        reordered = torch.empty_like(x) if self._reorders else None
        del partial, reordered
        return out


class Machete(Kernel):
    """sm_90. qlinear/machete.py, machete_awq.py; Swordfish, sm_100, has the same tensors.

    CUTLASS's workspace, a few megabytes, is not known.
    """

    def __init__(self, *, symmetric: bool) -> None:
        self._symmetric = symmetric

    def settle(self, layer: StoredLinear) -> None:
        """Unpacked to int32, 4·N·K, and packed again; zeros become 16-bit ones or go."""
        unpacked = layer.weight.new_empty(
            (layer.in_features, layer.out_features), dtype=torch.int32
        )
        packed = torch.empty_like(layer.qweight)
        del unpacked
        layer.repack("qweight")
        del packed
        if self._symmetric:
            layer.drop("qzeros")
        else:
            layer.qzeros = torch.empty_like(layer.scales)

    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """Output; scales and zeros in the input's type where they have another."""
        cast = [
            tensor.to(x.dtype)
            for tensor in (layer.scales, layer.qzeros)
            if tensor is not None and tensor.dtype.is_floating_point
        ]
        out = _output(layer, x)
        del cast
        return _with_bias(layer, out)


class ExllamaV2(Kernel):
    """4 bit, where Marlin is not: GPTQ with zero points, AWQ below sm_80. qlinear/exllamav2.py."""

    def __init__(self, *, batches: int, keeps_order: bool) -> None:
        """``batches`` of 2,048 rows that the scratch is for: 8 (GPTQ), 1 (AWQ)."""
        self._batches = batches
        self._keeps_order = keeps_order

    def scratch_bytes(self, layer: StoredLinear) -> int:
        """`scratch_space_fixed`: 2·N·K + 4·2,048·batches·N + 256."""
        wide = layer.out_features
        return 2 * wide * layer.in_features + 4 * 2048 * self._batches * wide + 256

    def settle(self, layer: StoredLinear) -> None:
        """GPTQ's order of columns and its inverse, 2·K bytes each; AWQ's tensors are repacked."""
        if self._keeps_order:
            order = layer.weight.new_empty(layer.in_features, dtype=torch.int16)
            layer.register_buffer("q_perm", order)
            layer.register_buffer("q_invperm", torch.empty_like(order))
        else:
            layer.repack("qweight")
            layer.repack("qzeros")

    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """In float16: input and output are cast where the model is not. The weight is in scratch.

        cuBLAS multiplies more than 50 rows (exllamav2/config.h).
        """
        half = x.to(torch.float16)
        out = _with_bias(layer, _output(layer, half))
        return out.to(x.dtype)


class ExllamaV1(Kernel):
    """AutoGPTQ's kernel until 0.7, by its name alone: qlinear_exllama.py, `autogptq_post_init`."""

    def __init__(self, *, reorders: bool = False) -> None:
        """``reorders``: GPTQ's ``desc_act``."""
        self._reorders = reorders

    def scratch_bytes(self, layer: StoredLinear) -> int:
        """One weight in 16 bit, 2·N·K (``temp_dq``), and 2,048 rows to reorder (``temp_state``).

        176,160,768 bytes for Llama-3.1-8B in 4 bit, as measured on an A100.
        """
        weight = 2 * layer.out_features * layer.in_features
        if not self._reorders:
            return weight
        return weight + 2 * EXLLAMA_ROWS * max(layer.out_features, layer.in_features)

    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """In float16, and stays so."""
        return _with_bias(layer, _output(layer, x.to(torch.float16)))


class CudaOld(Kernel):
    """AutoGPTQ's kernel for 8 bit, and for 4 without exllama: qlinear_cuda_old.py (0.7.1).

    github.com/AutoGPTQ/AutoGPTQ at 9f7d370.
    """

    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """Up to 127 rows in float32; more dequantise in steps, 6·N·K at the largest of them."""
        if _rows(x) < OLD_KERNEL_ROWS:
            total = _output(layer, x, torch.float32)
            cast = (x.to(torch.float32), layer.scales.to(torch.float32))
            del cast
            out = total.to(x.dtype)
        else:
            out = torch.matmul(x, self._weight(layer))
        return out + layer.bias if layer.bias is not None else out

    def _weight(self, layer: StoredLinear) -> torch.Tensor:
        """int32 shifted and cast, masked, zeros subtracted, scaled: each step a tensor."""
        steps = torch.int16 if _bits(layer) == 8 else torch.int8
        shifted = _dequantised(layer, torch.int32)
        small = shifted.to(steps)
        del shifted
        masked = torch.empty_like(small)
        del small
        centred = torch.empty_like(masked)
        return centred.to(layer.scales.dtype)


def _bits(layer: StoredLinear) -> int:
    """Bits of a weight, by the length of the packed columns."""
    return 32 * layer.qweight.shape[0] // layer.in_features


class Dequantised(Kernel):
    """``auto_trainable`` for GPTQ, and bits that no other kernel has.

    qlinear/tritonv2.py, torch.py.
    """

    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """The weight in 16 bit, 2·N·K, and an ordinary product.

        In training that product is autograd's own, which keeps the weight where the input needs a
        gradient: without checkpointing the whole model is there in 16 bit (torch.py
        `_forward_eager`; tritonv2.py leaves training to it).
        """
        weight = _dequantised(layer, layer.scales.dtype).to(x.dtype)
        return _with_bias(layer, torch.matmul(x, weight))


class AwqGemm(Kernel):
    """``auto_trainable`` for AWQ: qlinear/gemm_awq.py `AwqGemmFn`."""

    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """See `_AwqGemm`."""
        sixteen = x.dtype if x.dtype in (torch.float16, torch.bfloat16) else torch.float16
        out: torch.Tensor = _AwqGemm.apply(x.to(sixteen), layer)  # type: ignore[no-untyped-call]
        return out.to(x.dtype)


class _AwqGemm(torch.autograd.Function):
    """Keeps its input, though the backward pass reads the packed weight alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: StoredLinear) -> torch.Tensor:
        """Above 1,024 rows the weight in 16 bit; else eight float32 partial products 32·M·N."""
        ctx.save_for_backward(x)
        ctx.layer = layer
        if _rows(x) > 1024:
            weight = _dequantised(layer, layer.scales.dtype)
            out = torch.matmul(x, weight.to(x.dtype))
            del weight
        else:
            partial = x.new_empty((8, _rows(x), layer.out_features), dtype=torch.float32)
            out = _output(layer, x)
            del partial
        return out + layer.bias if layer.bias is not None else out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The weight in 16 bit, repeated for every sequence of the batch: (1 + B)·2·N·K."""
        (grad,) = grads
        weight = _dequantised(ctx.layer, ctx.layer.scales.dtype).to(grad.dtype)
        several = weight.transpose(0, 1).unsqueeze(0).repeat(grad.shape[0], 1, 1)
        return grad.bmm(several), None


def _with_bias(layer: StoredLinear, out: torch.Tensor) -> torch.Tensor:
    """Added in place."""
    if layer.bias is not None:
        out.add_(layer.bias)
    return out
