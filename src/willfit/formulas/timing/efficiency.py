"""How much of a peak rate real code reaches, as ranges, and what the host spends per operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal[
    "product", "dequantized", "int8", "float32", "attention", "eager", "memory", "gemv", "state",
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
    """Part of communication that hides behind backward."""


FAST: Final = Efficiency(
    compute={
        "product": 0.85, "dequantized": 0.85, "int8": 0.6, "float32": 0.95, "attention": 0.70,
        "eager": 0.6, "memory": 1.0, "gemv": 1.0, "state": 1.0,
    },
    memory={
        "product": 0.92, "dequantized": 0.92, "int8": 0.85, "float32": 0.92, "attention": 0.9,
        "eager": 0.92, "memory": 0.92, "gemv": 0.8, "state": 0.92,
    },
    operator_seconds=8e-6,
    backward_operator_seconds=5e-6,
    link=0.9,
    overlap=1.0,
)  # fmt: skip
NOMINAL: Final = Efficiency(
    compute={
        "product": 0.70, "dequantized": 0.70, "int8": 0.4, "float32": 0.85, "attention": 0.45,
        "eager": 0.45, "memory": 1.0, "gemv": 1.0, "state": 1.0,
    },
    memory={
        "product": 0.80, "dequantized": 0.80, "int8": 0.7, "float32": 0.80, "attention": 0.75,
        "eager": 0.80, "memory": 0.80, "gemv": 0.5, "state": 0.80,
    },
    operator_seconds=16e-6,
    backward_operator_seconds=8e-6,
    link=0.75,
    overlap=0.7,
)  # fmt: skip
SLOW: Final = Efficiency(
    compute={
        "product": 0.45, "dequantized": 0.45, "int8": 0.2, "float32": 0.6, "attention": 0.25,
        "eager": 0.25, "memory": 1.0, "gemv": 1.0, "state": 1.0,
    },
    memory={
        "product": 0.6, "dequantized": 0.6, "int8": 0.5, "float32": 0.6, "attention": 0.5,
        "eager": 0.6, "memory": 0.6, "gemv": 0.3, "state": 0.6,
    },
    operator_seconds=28e-6,
    backward_operator_seconds=15e-6,
    link=0.5,
    overlap=0.0,
)  # fmt: skip
