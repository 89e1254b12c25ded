"""What a GPU can do in a second: products by type, memory, and the way to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.dtypes import BFLOAT16, FLOAT16, DType
from willfit.scenario.machine import Gpu

TENSOR_CORES_SINCE: Final = 70
"""Compute capability of the first tensor cores (float16)."""
BFLOAT16_SINCE: Final = 80
"""Compute capability of the first tensor cores for bfloat16."""
INT8_SINCE: Final = 75
"""Compute capability of the first tensor cores for int8."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak rates of one GPU."""

    name: str
    sm: int
    flops: dict[str, float]
    """Dense FLOP/s of products by type, as PyTorch runs them."""
    bandwidth: float
    """Bytes per second of its memory."""
    pcie: float
    """Bytes per second between host and GPU, one way."""
    link: float
    """Bytes per second between two such GPUs, one way."""
    known: bool
    """Whether the catalogue has this card's rates; else they are a stand-in's."""

    def product(self, dtype: DType) -> float:
        """FLOP/s of products whose inputs are of this type."""
        return self.flops.get(dtype.name) or self.flops["float32"]


def rates_of(gpu: Gpu | None, stand_in: Gpu) -> Rates:
    """The card's rates; those of ``stand_in`` where no rate is known."""
    known = gpu is not None and bool(gpu.flops) and gpu.bandwidth_bytes_per_s is not None
    card = gpu if gpu is not None and known else stand_in
    sm = gpu.sm if gpu is not None and gpu.vendor == "nvidia" else card.sm
    pcie = pcie_rate(card)
    return Rates(
        name=card.name,
        sm=sm,
        flops=_product_rates(card),
        bandwidth=float(card.bandwidth_bytes_per_s or 0),
        pcie=pcie,
        link=nvlink_rate(card) or pcie,
        known=known,
    )


def _product_rates(gpu: Gpu) -> dict[str, float]:
    """FLOP/s by type as PyTorch computes products of that type.

    float32 stays off the tensor cores (``allow_tf32`` is False by default). 16-bit products add up
    in float32 (at::cuda::blas::gemm asks cuBLAS for CUBLAS_COMPUTE_32F), so that without tensor
    cores they run at float32's rate: float16 below sm_70, bfloat16 below sm_80. int8 (LLM.int8)
    below sm_75 is computed in float16.
    """
    single = gpu.flops.get("float32") or max(gpu.flops.values())
    if gpu.vendor != "nvidia":
        half = gpu.flops.get("float16", single)
        return {"float32": single, "float16": half, "bfloat16": gpu.flops.get("bfloat16", half)}
    half = gpu.flops.get("float16", single) if gpu.sm >= TENSOR_CORES_SINCE else single
    brain = gpu.flops.get("bfloat16", half) if gpu.sm >= BFLOAT16_SINCE else single
    whole = gpu.flops.get("int8", 2 * half) if gpu.sm >= INT8_SINCE else half
    eighth = gpu.flops.get("float8_e4m3fn", brain)
    return {
        "float32": single,
        FLOAT16.name: half,
        BFLOAT16.name: brain,
        "int8": whole,
        "float8_e4m3fn": eighth,
    }


PCIE_LANES: Final = 16
PCIE_PER_LANE: Final = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9}
"""Bytes per second and lane after encoding, by generation (PCI-SIG: 8, 16, 32 GT/s, 128b/130b)."""


def pcie_rate(gpu: Gpu) -> float:
    """16 lanes of the generation that the card's family has, one way.

    Vendor datasheets: Kepler to Turing 3, Ampere and Ada 4, Hopper and Blackwell 5. A few small
    cards have 8 lanes.
    """
    if gpu.unified_memory:
        return float(gpu.bandwidth_bytes_per_s or 0)
    if gpu.vendor != "nvidia":
        return PCIE_LANES * PCIE_PER_LANE[4]
    generation = 3 if gpu.sm < 80 else 4 if gpu.sm < 90 else 5
    return PCIE_LANES * PCIE_PER_LANE[generation]


_NVLINK: Final = (
    ("V100-SXM", 150e9), ("A100-SXM", 300e9), ("A800-SXM", 200e9), ("H100 80GB HBM3", 450e9),
    ("H800", 200e9), ("H200", 450e9), ("H20", 450e9), ("B200", 900e9),
)  # fmt: skip
"""Bytes per second one way over NVLink, by name (vendor datasheets give both ways together)."""


def nvlink_rate(gpu: Gpu) -> float:
    """NVLink's rate one way; 0 where the card has none or it is a bridge that is sold apart."""
    return next((rate for name, rate in _NVLINK if name in gpu.name), 0.0)
