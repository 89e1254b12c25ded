"""What a scenario has now, defaults of the libraries filled in: what changes compare with."""

from __future__ import annotations

from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.estimator.spread import strategy_of
from willfit.formulas.attention import default_implementation, resolve_implementation
from willfit.formulas.inference.settings import DEFAULT_CONTEXT
from willfit.formulas.training.optimizers import Optimizer, default_optimizer, find_optimizer
from willfit.formulas.training.settings import DEFAULT_BATCH, DEFAULT_LENGTH
from willfit.formulas.weights import loading_dtype
from willfit.scenario import Gpu, Scenario, Training

__all__ = ["strategy_of"]


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


def autocast_of(training: Training) -> DType | None:
    """Type of autocast, None without: TRL turns bfloat16 on by itself."""
    if training.bf16:
        return BFLOAT16
    if training.fp16:
        return FLOAT16
    unset = training.bf16 is None and training.fp16 is None
    return BFLOAT16 if training.trainer == "trl" and unset else None


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


def checkpointing_of(training: Training) -> bool:
    """Whether layers are computed again in backward."""
    given = training.gradient_checkpointing
    return training.trainer == "trl" if given is None else given


def optimizer_name(scenario: Scenario, training: Training) -> str:
    """``optim`` that is taken."""
    if training.optimizer is not None:
        return training.optimizer.strip().lower().removeprefix("optimizernames.")
    return default_optimizer(scenario.stack) if training.trainer != "loop" else "adamw_torch"


def optimizer_of(scenario: Scenario, training: Training) -> Optimizer:
    """The optimizer that is taken; raises `InputError` on an unknown name."""
    return find_optimizer(optimizer_name(scenario, training))


def micro_batch_of(training: Training) -> int:
    """``per_device_train_batch_size`` that is taken."""
    return training.micro_batch_size or DEFAULT_BATCH


def length_of(scenario: Scenario, training: Training) -> int:
    """Tokens of the longest sequence of a step."""
    limit = training.max_length
    if training.lengths:
        longest = max(training.lengths)
        return min(longest, limit) if limit is not None else longest
    return limit or _default(scenario, DEFAULT_LENGTH)


def context_of(scenario: Scenario) -> int:
    """Prompt plus new tokens of an inference."""
    inference = scenario.workload.inference
    given = inference.context_len if inference is not None else None
    return given or _default(scenario, DEFAULT_CONTEXT)


def _default(scenario: Scenario, usual: int) -> int:
    architecture = scenario.model.architecture
    longest = architecture.max_context if architecture is not None else None
    return min(usual, longest or usual)
