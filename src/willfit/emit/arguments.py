"""The settings of a scenario as plain data for the libraries at the stack's versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from willfit.dtypes import DType
from willfit.emit.adapters import adapter_call, prepare_call, trainable_dtype
from willfit.emit.call import Call
from willfit.emit.generation import KERNELS, generate_call
from willfit.emit.launch import Launch, environment, launch
from willfit.emit.loading import load_call
from willfit.emit.training import TrainerClass, trainer_class, training_call
from willfit.emit.versions import require
from willfit.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to call with what; nothing in it is a library's object."""

    load: Call
    """``AutoModelFor….from_pretrained``; the model's name or path comes first."""
    prepare: Call | None
    """``prepare_model_for_kbit_training``, called with the model first."""
    adapter: Call | None
    """The config for ``get_peft_model``."""
    trainable_dtype: DType | None
    """Type that parameters with a gradient are cast to once the adapter is there; None: none."""
    merge_adapter: bool
    """``merge_and_unload`` after the adapter is there."""
    freeze: tuple[str, ...]
    """Name suffixes of modules whose parameters ask for no gradient."""
    sdpa_kernel: str | None
    """Name in ``torch.nn.attention.SDPBackend`` of the only kernel allowed; None allows all."""
    training: Call | None
    """``TrainingArguments`` or ``SFTConfig``."""
    offload_activations: bool
    """``torch.autograd.graph.save_on_cpu`` around a Trainer's steps, which has no setting."""
    generate: Call | None
    """``model.generate`` besides its inputs; None where there is one forward pass."""
    environment: Mapping[str, str]
    """Variables to be set before torch is imported."""
    launch: Launch


def arguments(scenario: Scenario, *, trainer: TrainerClass | None = None) -> Arguments:
    """The libraries' arguments; `InputError` with the reason for what they cannot do.

    ``trainer``: whose trainer runs it, where not the scenario's own.
    """
    workload = scenario.workload
    training, inference = workload.training, workload.inference
    if training is not None and trainer is None:
        trainer = trainer_class(scenario)
    return Arguments(
        load=load_call(scenario),
        prepare=prepare_call(scenario),
        adapter=adapter_call(scenario),
        trainable_dtype=trainable_dtype(scenario),
        merge_adapter=inference is not None and inference.merge_adapter,
        freeze=training.freeze if training is not None else (),
        sdpa_kernel=_kernel(scenario),
        training=training_call(scenario, trainer) if training is not None else None,
        offload_activations=bool(training and training.offload_activations) and trainer != "trl",
        generate=generate_call(scenario),
        environment=environment(scenario),
        launch=launch(scenario),
    )


def _kernel(scenario: Scenario) -> str | None:
    part = scenario.workload.training or scenario.workload.inference
    kernel = part.sdpa_kernel if part is not None else None
    if kernel is None:
        return None
    require(scenario.stack, "sdpa_kernel cudnn" if kernel == "cudnn" else "sdpa_kernel")
    return KERNELS[kernel]
