"""What a GPU can do in a second: products by type, memory, and the way to the host."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from willfit.dtypes import DType
from willfit.formulas.timing.efficiency import LEVELS, Kind
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
    """Dense FLOP/s that PyTorch's products reach at best, by type."""
    bandwidth: float
    """Bytes per second of its memory."""
    pcie: float
    """Bytes per second between host and GPU, one way."""
    link: float
    """Bytes per second between two such GPUs, one way."""
    multiprocessors: int
    """Streaming multiprocessors, each with its share of the bandwidth."""
    host: float
    """Host time per operator against that of the servers that the efficiencies were judged on."""
    known: bool
    """Whether the catalogue has this card's rates; else they are a stand-in's."""

    @cached_property
    def slowness(self) -> dict[Kind, tuple[tuple[float, ...], tuple[float, ...]]]:
        """By kind of work: (seconds a byte, 1 / part of the FLOP/s) at each efficiency."""
        return {
            kind: (
                tuple(1 / (self.bandwidth * level.memory[kind]) for level in LEVELS),
                tuple(1 / level.compute[kind] for level in LEVELS),
            )
            for kind in LEVELS[0].memory
        }

    def product(self, dtype: DType) -> float:
        """FLOP/s of products whose inputs are of this type."""
        return self.flops.get(dtype.name, self.flops["float32"])


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
        multiprocessors=multiprocessors(card.name),
        host=NOTEBOOK_HOST if any(part in card.name for part in _NOTEBOOK_CARDS) else 1.0,
        known=known,
    )


def _product_rates(gpu: Gpu) -> dict[str, float]:
    """FLOP/s that PyTorch's products reach at best, by type.

    Measured where the catalogue has it, else the datasheet's by what other cards of its kind reach.
    float32 stays off the tensor cores (``allow_tf32`` is False by default). 16-bit products add up
    in float32 (at::cuda::blas::gemm asks cuBLAS for CUBLAS_COMPUTE_32F), so that without tensor
    cores they run at float32's rate: float16 below sm_70; bfloat16 below sm_80 is slower still.
    int8 (LLM.int8) below sm_75 is computed in float16.
    """
    single = gpu.flops.get("float32") or max(gpu.flops.values())
    if gpu.vendor != "nvidia":
        half = gpu.flops.get("float16", single) * DATACENTER_SHARE
        brain = gpu.flops.get("bfloat16", 0.0) * DATACENTER_SHARE or half
        return {"float32": single * DATACENTER_SHARE, "float16": half, "bfloat16": brain}
    measured = gpu.matmul_flops
    share = 1.0 if "GeForce" in gpu.name else DATACENTER_SHARE
    plain = measured.get("float32") or single * _float32_share(gpu)
    listed = gpu.flops.get("float16", single)
    half = measured.get("float16") or (listed * share if gpu.sm >= TENSOR_CORES_SINCE else plain)
    emulated = plain * EMULATED_SHARE
    modern = gpu.flops.get("bfloat16", listed) * share
    brain = measured.get("bfloat16") or (modern if gpu.sm >= BFLOAT16_SINCE else emulated)
    reached = half / listed
    whole = gpu.flops.get("int8", 2 * listed) * reached if gpu.sm >= INT8_SINCE else half
    eighth = gpu.flops.get("float8_e4m3fn", 0.0) * reached or brain
    return {
        "float32": plain, "float16": half, "bfloat16": brain, "int8": whole,
        "float8_e4m3fn": eighth,
    }  # fmt: skip


DATACENTER_SHARE: Final = 0.8
"""Part of a datasheet's tensor rate that products reach on cards that boost little: 0.73 to 0.86 on
V100, A100, H100, L40S, A6000 and A40 (catalogue: measured against listed). GeForce reaches all."""
EMULATED_SHARE: Final = 0.6
"""bfloat16 products on cards without tensor cores for it, against float32: 0.5 to 0.75 on T4, P100,
V100, RTX 2080 and P4 (the same)."""
_WIDE_FLOAT32: Final = (86, 89, 120)
"""Compute capabilities whose listed float32 rate doubles with units that integers share: products
reach 0.5 to 0.7 of it; on others 0.9 and more (the same)."""


def _float32_share(gpu: Gpu) -> float:
    return 0.67 if gpu.sm in _WIDE_FLOAT32 else 0.95


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


_MULTIPROCESSORS: Final = (
    ("T4", 40), ("P100", 56), ("V100", 80), ("A100", 108), ("A800", 108), ("A10G", 80),
    ("A10", 72), ("A30", 56), ("A40", 84), ("A6000", 84), ("L40", 142), ("L4", 58), ("H20 ", 78),
    ("H100 PCIe", 114), ("H100", 132), ("H800", 132), ("H200", 132), ("B200", 148), ("3060", 28),
    ("3080", 68), ("3090", 82), ("4070", 46), ("4080", 76), ("4090", 128), ("5080", 84),
    ("5090", 170), ("2060", 30), ("2080", 46),
)  # fmt: skip
"""Streaming multiprocessors by name (vendor architecture white papers)."""
USUAL_MULTIPROCESSORS: Final = 60


def multiprocessors(name: str) -> int:
    """Of that card; a middling number where it is not listed (it decides little)."""
    found = (count for part, count in _MULTIPROCESSORS if part in f"{name} ")
    return next(found, USUAL_MULTIPROCESSORS)


_NOTEBOOK_CARDS: Final = ("NVIDIA T4", "P100", "NVIDIA P4", "K80")
NOTEBOOK_HOST: Final = 1.6
"""Cards that notebooks lend come with a few slow virtual cores: two reports of batch-1 decoding on
a T4 give 22 and 32 µs an operator, where servers take 17."""
