"""Evaluator: outcomes by formula of thousands of scenarios that share a model and its loading."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields, replace
from typing import Final

from willfit.estimator.by_formula import outcome_by_formula
from willfit.estimator.outcome import Loaded, Outcome, load
from willfit.formulas.weights import on_machine
from willfit.scenario import Loading, Machine, ModelSpec, Scenario, Stack

_LOADING: Final = tuple(field.name for field in fields(Loading) if field.name != "max_memory")


class Evaluator:
    """What loading gives is kept for every way to load that was met; the rest is computed."""

    def __init__(self) -> None:
        self._loaded: dict[Hashable, tuple[ModelSpec, ModelSpec, Loaded]] = {}

    def outcome(self, scenario: Scenario) -> Outcome:
        """The outcome by formula; raises as `estimate` does."""
        key = _key(scenario)
        if key not in self._loaded:
            model = on_machine(scenario.model, scenario.workload, scenario.machine)
            self._loaded[key] = (scenario.model, model, load(replace(scenario, model=model)))
        _, model, loaded = self._loaded[key]
        return outcome_by_formula(replace(scenario, model=model), loaded)


def _key(scenario: Scenario) -> Hashable:
    """All that loading depends on; the model by identity (kept alive beside the result)."""
    workload = scenario.workload
    return (
        id(scenario.model),
        _loading_key(workload.loading),
        workload.training is None,
        workload.inference.engine if workload.inference is not None else None,
        _machine_key(scenario.machine),
        _stack_key(scenario.stack),
    )


def _loading_key(loading: Loading) -> Hashable:
    most = loading.max_memory
    return (
        *(getattr(loading, name) for name in _LOADING),
        None if most is None else tuple(most.items()),
    )


def _machine_key(machine: Machine | None) -> Hashable:
    if machine is None:
        return None
    gpus = tuple((gpu.name, gpu.capacity_bytes, gpu.compute_capability) for gpu in machine.gpus)
    return (gpus, machine.in_use_bytes, machine.reserve_bytes, machine.ram_bytes)


def _stack_key(stack: Stack) -> Hashable:
    return (tuple(stack.versions.items()), stack.alloc_conf)
