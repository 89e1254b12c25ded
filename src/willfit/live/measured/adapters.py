"""The model as a script has it before the first step: prepared, with adapters, or partly frozen."""

from __future__ import annotations

from typing import Any

from willfit.emitting.adapters import adapter_call, prepare_call, trainable_dtype
from willfit.errors import InputError
from willfit.formulas.training.settings import checkpointing_of
from willfit.live import realise
from willfit.scenario import Scenario
from willfit.scenario.workload import Training


def prepared(scenario: Scenario, model: Any) -> Any:
    """The model that trains, made by the calls that `emit` writes."""
    training = scenario.workload.training
    assert training is not None
    prepare = prepare_call(scenario)
    if prepare is not None:
        import peft

        make: Any = peft.prepare_model_for_kbit_training
        model = make(model, **prepare.arguments)
    model = adapted(scenario, model)
    _freeze(model, training)
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    if checkpointing_of(training) and frozen:
        model.enable_input_require_grads()
    return model


def adapted(scenario: Scenario, model: Any) -> Any:
    """PEFT's model around ours, of whatever method; the model itself where none is asked for."""
    call = adapter_call(scenario)
    if call is None:
        return model
    import peft

    put: Any = peft.get_peft_model
    try:
        model = put(model, _settings(scenario, call))
    except ValueError as error:
        raise InputError(f"PEFT refuses this adapter: {str(error)[:200]}") from error
    cast_trained(scenario, model)
    return model


def cast_trained(scenario: Scenario, model: Any) -> None:
    """What trains in the scenario's type, where that is not PEFT's choice."""
    dtype = trainable_dtype(scenario)
    if dtype is None:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(realise.realised(dtype))


def _settings(scenario: Scenario, call: Any) -> Any:
    """``LoraConfig``, or the configuration of a stranger's file without what it would load."""
    training = scenario.workload.training
    if training is None or training.adapter_config is None:
        return realise.realised(call)
    from willfit.trace.adapters import peft_settings

    return peft_settings(training.adapter_config)


def _freeze(model: Any, training: Training) -> None:
    for name, parameter in model.named_parameters():
        if any(f".{part}." in f".{name}." for part in training.freeze):
            parameter.requires_grad_(False)
