"""What speaks against changes in general: another kind of work, engine, library or GPU."""

from __future__ import annotations

from willfit.changes.change import Guard
from willfit.changes.current import gpus, lowest_sm
from willfit.scenario import Scenario


def trains(scenario: Scenario) -> str | None:
    """For training only."""
    return None if scenario.workload.training is not None else "nothing is trained"


def infers(scenario: Scenario) -> str | None:
    """For inference only."""
    return None if scenario.workload.inference is not None else "it is no inference"


def works(scenario: Scenario) -> str | None:
    """For training and inference, not for loading alone."""
    return "the model is loaded and nothing more" if scenario.workload.task == "load" else None


def on_transformers(scenario: Scenario) -> str | None:
    """For transformers' own code: other engines have no such setting."""
    inference = scenario.workload.inference
    if inference is not None and inference.engine != "transformers":
        return f"{inference.engine} has no such setting"
    if scenario.model.library != "transformers":
        return f"{scenario.model.library} has no such setting"
    return None


def with_bitsandbytes(scenario: Scenario) -> str | None:
    """Bitsandbytes is there and has kernels for the GPU.

    Installation guide of 0.50: NVIDIA from 6.0 on; LLM.int8 has a condition of its own.
    """
    if "bitsandbytes" not in scenario.stack.versions:
        return "bitsandbytes is not in the stack"
    if any(gpu.vendor == "apple" for gpu in gpus(scenario)):
        return "bitsandbytes' memory on Apple's GPUs is not known here"
    if lowest_sm(scenario) < 60:
        return "bitsandbytes needs compute capability 6.0"
    return None


def full(scenario: Scenario) -> str | None:
    """For full fine-tuning only."""
    training = scenario.workload.training
    return None if training is not None and training.method == "full" else "an adapter is trained"


def adapts(scenario: Scenario) -> str | None:
    """For training a LoRA adapter only."""
    training = scenario.workload.training
    if training is None or training.method == "full":
        return "no adapter is trained"
    return "the adapter is another method than LoRA" if training.adapter_config else None


def several(scenario: Scenario) -> str | None:
    """For more than one GPU."""
    return None if len(gpus(scenario)) > 1 else "there is one GPU"


def at_least(library: str, version: str) -> Guard:
    """For stacks with that release of a library or a later one."""

    def guard(scenario: Scenario) -> str | None:
        if library not in scenario.stack.versions:
            return f"{library} is not in the stack"
        if scenario.stack.at_least(library, version):
            return None
        return f"it came with {library} {version}, the stack has {scenario.stack.versions[library]}"

    return guard
