"""Scenario = ModelSpec × Workload × Machine × Stack, and the Pipeline of scenarios."""

from __future__ import annotations

from willfit.scenario.machine import Gpu, Machine
from willfit.scenario.model import ModelSpec
from willfit.scenario.pipeline import Group, Pipeline
from willfit.scenario.scenario import Scenario
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Inference, Loading, Lora, Quantization, Training, Workload

__all__ = [
    "Gpu",
    "Group",
    "Inference",
    "Loading",
    "Lora",
    "Machine",
    "ModelSpec",
    "Pipeline",
    "Quantization",
    "Scenario",
    "Stack",
    "Training",
    "Workload",
]
