"""Where the model is: how several GPUs share it, and what waits in host memory or on disk."""

from __future__ import annotations

from functools import partial
from typing import Final

from willfit.changes.change import Change, Effort, Guard, guarded
from willfit.changes.current import gpus, optimizer_name
from willfit.changes.edit import with_loading
from willfit.changes.guards import infers, on_transformers, several, trains
from willfit.estimator.spread import strategy_of
from willfit.formulas.training.fsdp import refuses_shards
from willfit.scenario import Scenario
from willfit.scenario.workload import Strategy

_SHARDS: Final = ("zero1", "zero2", "zero3", "fsdp")


def _not_already(strategy: Strategy) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now = strategy_of(scenario)
        return f"the strategy is {strategy}" if now == strategy else None

    return guard


def _shards_more(strategy: Strategy) -> Guard:
    """Each of zero1, zero2, zero3 and fsdp shards what the one before does, and more."""

    def guard(scenario: Scenario) -> str | None:
        now = strategy_of(scenario)
        if strategy in ("zero3", "fsdp") and scenario.quantized:
            return f"{strategy} does not shard quantised weights as they are loaded here"
        if strategy == "fsdp" and (training := scenario.workload.training) is not None:
            name = optimizer_name(scenario, training)
            if refuses_shards(name, scenario.stack, packed=False):
                return f"{name} cannot step FSDP's shards"
        shards = now in _SHARDS and _SHARDS.index(now) >= _SHARDS.index(strategy)
        return f"{now} shards as much" if shards else None

    return guard


def _has_ranks(scenario: Scenario) -> str | None:
    inference = scenario.workload.inference
    if inference is not None and inference.engine == "llama.cpp":
        return "llama.cpp splits by layers or rows in ways of its own"
    return None


def _splits_heads(scenario: Scenario) -> str | None:
    architecture, degree = scenario.model.architecture, len(gpus(scenario))
    if scenario.quantized:
        return "quantised weights are not split by tensor parallel"
    if architecture is None:
        return "the model's layers are not known"
    heads = {g.attention.num_heads for g in architecture.layers if g.attention is not None}
    uneven = [number for number in heads if number % degree]
    return f"{uneven[0]} heads cannot be split over {degree} GPUs" if uneven else None


def _equal_gpus(scenario: Scenario) -> str | None:
    return None if len({gpu.name for gpu in gpus(scenario)}) == 1 else "the GPUs differ"


def _set(strategy: Strategy, scenario: Scenario) -> Scenario:
    return with_loading(scenario, strategy=strategy, max_memory=None)


def _strategy(
    strategy: Strategy, title: str, *guards: Guard, effort: Effort = Effort.SETTING,
    spends: bool = False,
) -> Change:  # fmt: skip
    return Change(
        id=f"strategy={strategy}",
        setting="strategy",
        title=title,
        apply=guarded(partial(_set, strategy), several, *guards, _not_already(strategy)),
        effort=effort,
        spends=spends,
    )


def _from_one_gpu(scenario: Scenario) -> str | None:
    now = strategy_of(scenario)
    return None if now in ("dp", "device_map", "replicas") else f"{now} uses every GPU"


INFERENCE: Final = (
    _strategy("device_map", 'Split the layers over the GPUs there are (device_map="auto")',
              infers, on_transformers),
    _strategy("tp", "Split every layer over the GPUs there are (tensor parallel)", infers,
              _has_ranks, _splits_heads, _equal_gpus, effort=Effort.INSTALL),
)  # fmt: skip
TRAINING: Final = (
    _strategy("zero1", "Share the optimizer's states among the GPUs (DeepSpeed ZeRO-1)", trains,
              _shards_more("zero1"), effort=Effort.INSTALL),
    _strategy("zero2", "Share gradients and optimizer states among the GPUs (DeepSpeed ZeRO-2)",
              trains, _shards_more("zero2"), effort=Effort.INSTALL),
    _strategy("zero3", "Share weights, gradients and states among the GPUs (DeepSpeed ZeRO-3)",
              trains, _shards_more("zero3"), effort=Effort.INSTALL),
    _strategy("fsdp", "Share weights, gradients and states among the GPUs (FSDP)", trains,
              _shards_more("fsdp"), effort=Effort.INSTALL),
)  # fmt: skip
FASTER: Final = (
    _strategy("replicas", "Run one copy of the model on each GPU", infers, spends=True),
    _strategy("ddp", "Train on every GPU at once (accelerate launch or notebook_launcher)",
              trains, _from_one_gpu, effort=Effort.INSTALL, spends=True),
)  # fmt: skip
