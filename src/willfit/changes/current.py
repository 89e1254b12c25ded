"""What a scenario has now, defaults of the libraries filled in: what changes compare with."""

from __future__ import annotations

from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.formulas.attention import default_implementation, resolve_implementation
from willfit.formulas.inference.settings import default_context
from willfit.formulas.training.optimizers import canonical
from willfit.formulas.training.settings import autocast_of, optimizer_of
from willfit.formulas.weights import loading_dtype
from willfit.scenario import Gpu, Scenario, Training


def gpus(scenario: Scenario) -> tuple[Gpu, ...]:
    """The GPUs there are; none where no machine was named."""
    return scenario.machine.gpus if scenario.machine is not None else ()


def lowest_sm(scenario: Scenario) -> int:
    """Compute capability of the oldest NVIDIA GPU as one number, sm_80 where none is named."""
    return min((gpu.sm for gpu in gpus(scenario) if gpu.vendor == "nvidia"), default=80)


def model_type(scenario: Scenario) -> str:
    """``model_type`` of the config; "" where it has none."""
    return str(scenario.model.config.get("model_type") or "")


def dtype_of(scenario: Scenario) -> DType:
    """Type that unquantised weights are loaded in."""
    return loading_dtype(scenario.model, scenario.workload.loading, scenario.stack)[0]


def compute_dtype(scenario: Scenario) -> DType:
    """Type that attention and products work in."""
    training = scenario.workload.training
    if training is None:
        return dtype_of(scenario)
    autocast = autocast_of(training)
    if autocast is not None:
        return autocast
    return FLOAT32 if training.prepare_kbit else dtype_of(scenario)


def half_of(scenario: Scenario) -> DType:
    """The 16-bit type that every GPU there is computes in natively."""
    return BFLOAT16 if lowest_sm(scenario) >= 80 else FLOAT16


def implementation_of(scenario: Scenario) -> str:
    """``attn_implementation`` that is taken."""
    workload, architecture = scenario.workload, scenario.model.architecture
    task = workload.training or workload.inference
    name = task.attn if task is not None else None
    if name is None and architecture is not None:
        return default_implementation(architecture, scenario.stack)
    return resolve_implementation(name, architecture, scenario.stack)[0]


def optimizer_name(scenario: Scenario, training: Training) -> str:
    """``optim`` that is taken."""
    return canonical(optimizer_of(training, scenario.stack))


def context_of(scenario: Scenario) -> int:
    """Prompt plus new tokens of an inference."""
    inference = scenario.workload.inference
    given = inference.context_len if inference is not None else None
    return given or default_context(scenario.model.architecture)
