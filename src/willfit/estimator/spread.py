"""How a scenario is spread over its GPUs, by its strategy."""

from __future__ import annotations

from typing import Final

from willfit.errors import UnsupportedError
from willfit.estimator.share import Share, Spread
from willfit.estimator.split import auto_leaves_gpu, split_by_device_map
from willfit.estimator.tensor_parallel import split_by_tensor_parallel
from willfit.formulas.weights import LoadedWeights
from willfit.scenario import Scenario
from willfit.scenario.machine import Gpu
from willfit.scenario.workload import Strategy


def strategy_of(scenario: Scenario) -> Strategy:
    """The strategy given, else device_map for loading and inference and ddp for training."""
    given = scenario.workload.loading.strategy
    if given is not None:
        return given
    return "ddp" if scenario.workload.training is not None else "device_map"


_HOLDS: Final[dict[Strategy, str]] = {
    "dp": "every GPU holds the weights; gradients, optimizer and gathered outputs are on GPU 0",
    "ddp": "every GPU holds the weights, gradients and optimizer states",
    "zero1": "every GPU holds the weights and gradients, and its part of the optimizer states",
    "zero2": "every GPU holds the weights, and its part of gradients and optimizer states",
    "zero3": "every GPU holds its part of weights, gradients and optimizer states",
    "fsdp": "every GPU holds its part of weights, gradients and optimizer states",
}


def spread(scenario: Scenario, weights: LoadedWeights) -> Spread:
    """The shares of a scenario's GPUs (one nameless GPU where no machine was given)."""
    machine = scenario.machine
    max_memory = scenario.workload.loading.max_memory
    strategy = strategy_of(scenario)
    gpus: tuple[Gpu | None, ...] = machine.gpus if machine is not None else (None,)
    split = strategy == "device_map" and (len(gpus) > 1 or max_memory is not None)
    if split:
        return split_by_device_map(scenario, weights)
    if scenario.workload.training is None and strategy == "tp":
        return split_by_tensor_parallel(scenario, weights)
    if scenario.workload.training is None and strategy not in ("device_map", "replicas", "ddp"):
        raise UnsupportedError(
            f"--strategy {strategy} for inference is not known at formula level: "
            "use device_map, or replicas for one model on each GPU"
        )
    shares = tuple(
        Share(index=index, gpu=gpu, weights=weights, stage=None) for index, gpu in enumerate(gpus)
    )
    if len(gpus) > 1:
        note: str | None = f"{strategy}: {_HOLDS.get(strategy, 'every GPU holds a copy')}"
    else:
        alone = strategy == "device_map" and scenario.workload.training is None
        note = auto_leaves_gpu(scenario, weights) if alone else None
    return Spread(shares=shares, assumptions=(note,) if note else ())
