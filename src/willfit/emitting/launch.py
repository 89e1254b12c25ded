"""How a job's processes are started, and with which environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from willfit.emitting.versions import ALLOC_CONF_SINCE
from willfit.estimator.spread import strategy_of
from willfit.scenario import Scenario
from willfit.scenario.workload import Strategy

Starter = Literal["python", "accelerate", "torchrun", "replicas"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Processes of one job."""

    starter: Starter
    """``python`` is one process; ``replicas`` are independent ones, a part of the data each."""
    num_processes: int
    strategy: Strategy
    """How several GPUs are used; one GPU has ``device_map`` or ``ddp``, which is then nothing."""


def launch(scenario: Scenario) -> Launch:
    """The scenario's strategy over its GPUs, as processes."""
    gpus = scenario.num_gpus
    strategy = strategy_of(scenario)
    if gpus == 1 or strategy in ("device_map", "dp"):
        return Launch(starter="python", num_processes=1, strategy=strategy)
    starter: Starter = "accelerate"
    if strategy == "replicas":
        starter = "replicas"
    elif strategy == "tp":
        starter = "torchrun"
    return Launch(starter=starter, num_processes=gpus, strategy=strategy)


def environment(scenario: Scenario) -> dict[str, str]:
    """Variables to be set before torch is imported."""
    variables: dict[str, str] = {}
    if scenario.stack.alloc_conf:
        recent = scenario.stack.at_least("torch", ALLOC_CONF_SINCE)
        name = "PYTORCH_ALLOC_CONF" if recent else "PYTORCH_CUDA_ALLOC_CONF"
        variables[name] = scenario.stack.alloc_conf
    machine = scenario.machine
    if machine is not None and not machine.internet:
        variables["HF_HUB_OFFLINE"] = "1"
    if scenario.workload.training is not None and machine is not None and len(machine.gpus) == 1:
        variables["CUDA_VISIBLE_DEVICES"] = "0"
    return variables
