"""How much of a card's rates real code reaches, as ranges, and what the host spends per operator.

Of the nominal column, products, attention, memory, cache and the host's time per operator are
what eight published sources agree on: ``benchmarks/speed_fit.py`` finds them again with every
source left out in turn and judges that source with the rest (docs/throughput.md). The others (int8,
float32, eager, gemv, state, link) are taken from single measurements, with a wide range.
The ends hold what the best and the worst of those runs come to; the fast end of ``product``
is the measured rate itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal[
    "product", "dequantized", "int8", "float32", "attention", "eager", "memory", "gemv", "state",
    "cache",
]  # fmt: skip
"""Kinds of work with an efficiency of their own."""


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Parts of a peak that one level of the range reaches."""

    compute: dict[Kind, float]
    """Part of the FLOP/s of the type, by kind of work."""
    memory: dict[Kind, float]
    """Part of the memory bandwidth, by kind of work."""
    operator_seconds: float
    """Host time per operator called from a model's Python code."""
    backward_operator_seconds: float
    """Host time per operator that autograd calls."""
    link: float
    """Part of PCIe's or NVLink's rate that a copy or a collective reaches."""
    overlap: float
    """Part of communication and of copies beside the kernels that hides behind them."""
    paged: float
    """Part of paged optimizer states that has to come from the host and go back."""


FAST: Final = Efficiency(
    compute={
        "product": 0.97, "dequantized": 0.97, "int8": 0.60, "float32": 1.00, "attention": 0.97,
        "eager": 0.60, "memory": 1.0, "gemv": 1.0, "state": 1.0, "cache": 1.0,
    },
    memory={
        "product": 0.92, "dequantized": 0.92, "int8": 0.85, "float32": 0.92, "attention": 0.92,
        "eager": 0.92, "memory": 0.92, "gemv": 0.80, "state": 0.92, "cache": 0.60,
    },
    operator_seconds=8e-6,
    backward_operator_seconds=6e-6,
    link=0.9,
    overlap=1.0,
    paged=0.0,
)  # fmt: skip
NOMINAL: Final = Efficiency(
    compute={
        "product": 0.68, "dequantized": 0.68, "int8": 0.40, "float32": 0.90, "attention": 0.80,
        "eager": 0.45, "memory": 1.0, "gemv": 1.0, "state": 1.0, "cache": 1.0,
    },
    memory={
        "product": 0.80, "dequantized": 0.80, "int8": 0.70, "float32": 0.80, "attention": 0.80,
        "eager": 0.72, "memory": 0.72, "gemv": 0.50, "state": 0.80, "cache": 0.33,
    },
    operator_seconds=17e-6,
    backward_operator_seconds=15e-6,
    link=0.75,
    overlap=0.7,
    paged=0.0,
)  # fmt: skip
SLOW: Final = Efficiency(
    compute={
        "product": 0.48, "dequantized": 0.48, "int8": 0.20, "float32": 0.65, "attention": 0.40,
        "eager": 0.25, "memory": 1.0, "gemv": 1.0, "state": 1.0, "cache": 1.0,
    },
    memory={
        "product": 0.60, "dequantized": 0.60, "int8": 0.50, "float32": 0.60, "attention": 0.50,
        "eager": 0.50, "memory": 0.50, "gemv": 0.30, "state": 0.60, "cache": 0.20,
    },
    operator_seconds=28e-6,
    backward_operator_seconds=28e-6,
    link=0.5,
    overlap=0.0,
    paged=1.0,
)  # fmt: skip

LEVELS: Final = (FAST, NOMINAL, SLOW)
"""The range, from its fast end to its slow one."""
