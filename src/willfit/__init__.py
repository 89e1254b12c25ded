"""Will this model fit on my GPU, and if not, what is the smallest change that makes it fit?

    import willfit

    scenario = willfit.Scenario(
        model=willfit.find_model("meta-llama/Meta-Llama-3-8B"),
        machine=willfit.Machine(gpus=willfit.parse_machine("T4x2").gpus),
    )
    print(willfit.estimate(scenario).verdict)

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from willfit._version import __version__

if TYPE_CHECKING:
    from willfit.devices import find_gpu, parse_machine
    from willfit.emitting import emit
    from willfit.errors import InputError, UnsupportedError, WillfitError
    from willfit.estimator import estimate
    from willfit.live.load import load
    from willfit.live.loaded import Loaded
    from willfit.planning import Job, plan
    from willfit.results import Estimate
    from willfit.runner.isolated import isolated
    from willfit.runner.run import run
    from willfit.scenario import Machine, ModelSpec, Pipeline, Scenario, Stack, Workload
    from willfit.sources.resolve import resolve as find_model

__all__ = [
    "Estimate",
    "InputError",
    "Job",
    "Loaded",
    "Machine",
    "ModelSpec",
    "Pipeline",
    "Scenario",
    "Stack",
    "UnsupportedError",
    "WillfitError",
    "Workload",
    "__version__",
    "emit",
    "estimate",
    "find_gpu",
    "find_model",
    "isolated",
    "load",
    "parse_machine",
    "plan",
    "run",
]

_HOMES = {
    "Estimate": ("willfit.results", "Estimate"),
    "InputError": ("willfit.errors", "InputError"),
    "Job": ("willfit.planning", "Job"),
    "Loaded": ("willfit.live.loaded", "Loaded"),
    "Machine": ("willfit.scenario", "Machine"),
    "ModelSpec": ("willfit.scenario", "ModelSpec"),
    "Pipeline": ("willfit.scenario", "Pipeline"),
    "Scenario": ("willfit.scenario", "Scenario"),
    "Stack": ("willfit.scenario", "Stack"),
    "UnsupportedError": ("willfit.errors", "UnsupportedError"),
    "WillfitError": ("willfit.errors", "WillfitError"),
    "Workload": ("willfit.scenario", "Workload"),
    "emit": ("willfit.emitting", "emit"),
    "estimate": ("willfit.estimator", "estimate"),
    "find_gpu": ("willfit.devices", "find_gpu"),
    "find_model": ("willfit.sources.resolve", "resolve"),
    "isolated": ("willfit.runner.isolated", "isolated"),
    "load": ("willfit.live.load", "load"),
    "parse_machine": ("willfit.devices", "parse_machine"),
    "plan": ("willfit.planning", "plan"),
    "run": ("willfit.runner.run", "run"),
}


def __getattr__(name: str) -> Any:
    """A public name, imported from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'willfit' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value
