"""Alone: what one GPU would run that computes as each rank of several does."""

from __future__ import annotations

from dataclasses import replace

from willfit.dtypes import DType
from willfit.formulas.training.settings import autocast_of
from willfit.formulas.training.zero import STAGES
from willfit.scenario import Scenario


def alone_of(scenario: Scenario) -> Scenario:
    """The scenario of a single GPU, in the type that the ranks compute in.

    Under FSDP, accelerate's mixed precision is FSDP's own: weights are gathered in the type of
    autocast, which then casts none of them. Under ZeRO DeepSpeed casts every parameter that is not
    packed, also what was prepared in float32 for k-bit training, and no autocast does (0.19.8
    runtime/engine.py `_cast_module_mixed_precision`).
    """
    work, strategy = scenario.workload, scenario.workload.loading.strategy
    cast = autocast_of(work.training) if work.training is not None else None
    if work.training is None or cast is None or scenario.num_gpus == 1:
        return scenario
    if strategy == "fsdp" and not scenario.quantized:
        return _in(scenario, cast)
    if strategy in STAGES:
        training = replace(work.training, bf16=False, fp16=False, prepare_kbit=False)
        return _in(replace(scenario, workload=replace(work, training=training)), cast)
    return scenario


def _in(scenario: Scenario, dtype: DType) -> Scenario:
    """With its weights, those that are not packed, and its adapters in this type."""
    work, training = scenario.workload, scenario.workload.training
    loading = replace(work.loading, dtype=dtype)
    lora = training.lora_config if training is not None else None
    if training is not None and lora is not None:
        training = replace(training, lora=replace(lora, dtype=dtype))
    return replace(scenario, workload=replace(work, loading=loading, training=training))
