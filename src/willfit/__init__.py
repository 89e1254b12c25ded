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
    from willfit.doctor.diagnose import diagnose
    from willfit.doctor.diagnosis import Diagnosis
    from willfit.emitting import emit
    from willfit.errors import InputError, UnsupportedError, WillfitError
    from willfit.estimator import estimate
    from willfit.live.load import load
    from willfit.live.loaded import Loaded
    from willfit.live.measure import measure
    from willfit.live.measurement import Measurement
    from willfit.live.memory.callback import FirstStepCallback
    from willfit.live.memory.release import release
    from willfit.live.memory.watch import watch
    from willfit.planning import Job, plan
    from willfit.results import Estimate
    from willfit.runner.isolated import isolated
    from willfit.runner.run import run
    from willfit.scenario import Machine, ModelSpec, Pipeline, Scenario, Stack, Workload
    from willfit.sources.resolve import resolve as find_model

__all__ = [
    "Diagnosis",
    "Estimate",
    "FirstStepCallback",
    "InputError",
    "Job",
    "Loaded",
    "Machine",
    "Measurement",
    "ModelSpec",
    "Pipeline",
    "Scenario",
    "Stack",
    "UnsupportedError",
    "WillfitError",
    "Workload",
    "__version__",
    "diagnose",
    "emit",
    "estimate",
    "find_gpu",
    "find_model",
    "isolated",
    "load",
    "measure",
    "parse_machine",
    "plan",
    "release",
    "run",
    "watch",
]

_HOMES = {
    "Diagnosis": ("willfit.doctor.diagnosis", "Diagnosis"),
    "Estimate": ("willfit.results", "Estimate"),
    "FirstStepCallback": ("willfit.live.memory.callback", "FirstStepCallback"),
    "InputError": ("willfit.errors", "InputError"),
    "Job": ("willfit.planning", "Job"),
    "Loaded": ("willfit.live.loaded", "Loaded"),
    "Machine": ("willfit.scenario", "Machine"),
    "Measurement": ("willfit.live.measurement", "Measurement"),
    "ModelSpec": ("willfit.scenario", "ModelSpec"),
    "Pipeline": ("willfit.scenario", "Pipeline"),
    "Scenario": ("willfit.scenario", "Scenario"),
    "Stack": ("willfit.scenario", "Stack"),
    "UnsupportedError": ("willfit.errors", "UnsupportedError"),
    "WillfitError": ("willfit.errors", "WillfitError"),
    "Workload": ("willfit.scenario", "Workload"),
    "diagnose": ("willfit.doctor.diagnose", "diagnose"),
    "emit": ("willfit.emitting", "emit"),
    "estimate": ("willfit.estimator", "estimate"),
    "find_gpu": ("willfit.devices", "find_gpu"),
    "find_model": ("willfit.sources.resolve", "resolve"),
    "isolated": ("willfit.runner.isolated", "isolated"),
    "load": ("willfit.live.load", "load"),
    "measure": ("willfit.live.measure", "measure"),
    "parse_machine": ("willfit.devices", "parse_machine"),
    "plan": ("willfit.planning", "plan"),
    "release": ("willfit.live.memory.release", "release"),
    "run": ("willfit.runner.run", "run"),
    "watch": ("willfit.live.memory.watch", "watch"),
}


def __getattr__(name: str) -> Any:
    """A public name, imported from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'willfit' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    try:
        value = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        from willfit.errors import MissingLibraryError

        raise MissingLibraryError(
            f"willfit.{name} needs {error.name}: pip install 'willfit[trace]'"
        ) from None
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext willfit`` in a notebook: the magics ``%%willfit_watch`` and ``%watch``."""
    from willfit.live.memory.ipython import register

    register(shell)
