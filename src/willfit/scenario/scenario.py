"""Scenario: the one noun. Everything else is a function of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from willfit.scenario.machine import Machine
from willfit.scenario.model import ModelSpec
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A model, what is done with it, on which machine, with which libraries."""

    model: ModelSpec
    workload: Workload = field(default_factory=Workload)
    machine: Machine | None = None
    """None where no GPU was named: amounts are computed, no verdict is given."""
    stack: Stack = field(default_factory=Stack)

    @property
    def quantized(self) -> bool:
        """Whether weights are packed, by loading or as they are stored."""
        loading = self.workload.loading.quantization
        return loading is not None or self.model.quantization is not None

    @property
    def num_gpus(self) -> int:
        """GPUs that share the work; 1 where none was named."""
        return len(self.machine.gpus) if self.machine is not None else 1
