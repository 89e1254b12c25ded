"""Copies of a scenario with fields of one of its parts replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from willfit.scenario import Inference, Lora, Scenario, Training


def with_loading(scenario: Scenario, **fields: Any) -> Scenario:
    """The scenario loaded otherwise."""
    workload = scenario.workload
    return replace(
        scenario, workload=replace(workload, loading=replace(workload.loading, **fields))
    )


def with_inference(scenario: Scenario, **fields: Any) -> Scenario:
    """The scenario with fields of its inference replaced."""
    inference = replace(inference_of(scenario), **fields)
    return replace(scenario, workload=replace(scenario.workload, inference=inference))


def with_training(scenario: Scenario, **fields: Any) -> Scenario:
    """The scenario with fields of its training replaced."""
    training = replace(training_of(scenario), **fields)
    return replace(scenario, workload=replace(scenario.workload, training=training))


def with_lora(scenario: Scenario, **fields: Any) -> Scenario:
    """The scenario with fields of the trained adapter replaced."""
    return with_training(scenario, lora=replace(lora_of(scenario), **fields))


def inference_of(scenario: Scenario) -> Inference:
    """The inference of a scenario that has one."""
    inference = scenario.workload.inference
    if inference is None:
        raise LookupError("the scenario has no inference")
    return inference


def training_of(scenario: Scenario) -> Training:
    """The training of a scenario that has one."""
    training = scenario.workload.training
    if training is None:
        raise LookupError("the scenario has no training")
    return training


def lora_of(scenario: Scenario) -> Lora:
    """The adapter that is trained, PEFT's defaults where nothing was given."""
    return training_of(scenario).lora_config or Lora()
