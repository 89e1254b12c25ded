"""Optimizers that keep less on the GPU than the one there is."""

from __future__ import annotations

from functools import partial
from typing import Final

from willfit.changes.change import Change, Effort, Guard, Quality, guarded
from willfit.changes.current import dtype_of, optimizer_name
from willfit.changes.edit import training_of, with_training
from willfit.changes.guards import trains, with_bitsandbytes
from willfit.errors import InputError
from willfit.estimator.spread import strategy_of
from willfit.formulas.training.fsdp import refuses_shards
from willfit.formulas.training.optimizers import OPTIMIZERS, find_optimizer
from willfit.scenario import Scenario

_EIGHT_BIT: Final = (
    "states in 8 bit: results matched 32-bit Adam in Dettmers et al. 2021 (8-bit Optimizers via "
    "Block-wise Quantization) on language, translation and vision"
)
_FOUR_BIT: Final = (
    "states in 4 bit: comparable to 32 bit on fine-tuning in Li et al. 2023 (Memory Efficient "
    "Optimizers with 4-bit States)"
)
_ADAFACTOR: Final = (
    "second moment by rows and columns, no first: matched Adam on translation in Shazeer and "
    "Stern 2018; needs its own learning rate"
)
_LION: Final = (
    "another optimizer: Chen et al. 2023 (Symbolic Discovery of Optimization Algorithms) ask for "
    "a learning rate 3 to 10 times smaller and a larger weight decay"
)
_SGD: Final = (
    "another optimizer: Zhang et al. 2020 (Why are Adaptive Methods Good for Attention Models?) "
    "found it far behind Adam on language models"
)
_LOMO: Final = (
    "plain SGD fused into backward (Lv et al. 2023, Full Parameter Fine-tuning with Limited "
    "Resources): compared well with LoRA on SuperGLUE, not with Adam"
)
_ADALOMO: Final = (
    "adaptive rates by rows and columns inside backward: close to AdamW in instruction tuning in "
    "Lv et al. 2023 (AdaLomo)"
)


def gpu_bytes(name: str, element_bytes: int) -> float:
    """Bytes a trained parameter that an optimizer takes of the GPU, its step's copies included."""
    optimizer = find_optimizer(name)
    if optimizer.on_host:
        return 0.0
    if optimizer.paged:
        return (optimizer.state_bytes or 0.0) % 1
    states = optimizer.state_bytes
    if states is None:
        states = (optimizer.states + (optimizer.compensated and element_bytes < 4)) * element_bytes
    gradient = 0 if optimizer.gradients_freed else element_bytes
    return states + gradient + optimizer.step_all * element_bytes


def _saves(name: str) -> Guard:
    """It keeps less on the GPU than what there is."""

    def guard(scenario: Scenario) -> str | None:
        training = training_of(scenario)
        now = optimizer_name(scenario, training)
        trained = dtype_of(scenario).block_bytes if training.method == "full" else 4
        try:
            before = gpu_bytes(now, trained)
        except InputError as error:
            return str(error)
        if now == name or gpu_bytes(name, trained) >= before:
            return f"{now} keeps no more on the GPU"
        return None

    return guard


def _fused_into_backward(scenario: Scenario) -> str | None:
    training = training_of(scenario)
    if training.trainer == "loop":
        return "lomo-optim is called through the Trainer"
    if training.gradient_accumulation_steps > 1:
        return "LOMO steps inside backward and cannot accumulate"
    if training.fp16:
        return "LOMO under float16 scales the loss itself, which is not known here"
    return None


def _takes_shards(name: str) -> Guard:
    """It steps what FSDP shares out, where that is the strategy."""

    def guard(scenario: Scenario) -> str | None:
        sharded = strategy_of(scenario) == "fsdp" and scenario.num_gpus > 1
        if sharded and refuses_shards(name, scenario.stack, packed=scenario.quantized):
            return f"{name} cannot step FSDP's shards"
        return None

    return guard


def _through_trainer(scenario: Scenario) -> str | None:
    return None if training_of(scenario).trainer != "loop" else "it is a setting of the Trainer"


def _row(
    name: str, title: str, quality: Quality, reason: str, *guards: Guard,
    effort: Effort = Effort.SETTING,
) -> Change:  # fmt: skip
    bitsandbytes = (
        (with_bitsandbytes,) if "torch" not in name and OPTIMIZERS[name].state_bytes else ()
    )
    return Change(
        id=f"optim={name}",
        setting="optim",
        title=title,
        apply=guarded(
            partial(_set, name), trains, *bitsandbytes, *guards, _takes_shards(name), _saves(name)
        ),
        quality=quality,
        quality_reason=reason,
        effort=effort,
    )


def _set(name: str, scenario: Scenario) -> Scenario:
    return with_training(scenario, optimizer=name)


OPTIMS: Final = (
    _row("adamw_torch_fused", "Step with the fused AdamW, which copies nothing", Quality.NONE, ""),
    _row("paged_adamw_32bit", "Page AdamW's states, in 32 bit, to host memory", Quality.NONE, ""),
    _row("adamw_8bit", "Keep AdamW's states in 8 bit", Quality.SLIGHT, _EIGHT_BIT),
    _row("paged_adamw_8bit", "Page AdamW's states, in 8 bit, to host memory", Quality.SLIGHT,
         _EIGHT_BIT),
    _row("adamw_torch_8bit", "Keep AdamW's states in 8 bit (pip install torchao)", Quality.SLIGHT,
         _EIGHT_BIT, _through_trainer, effort=Effort.INSTALL),
    _row("adamw_torch_4bit", "Keep AdamW's states in 4 bit (pip install torchao)", Quality.SLIGHT,
         _FOUR_BIT, _through_trainer, effort=Effort.INSTALL),
    _row("adafactor", "Use Adafactor, which factors its states", Quality.SLIGHT, _ADAFACTOR),
    _row("adalomo", "Use AdaLomo, which steps inside backward (pip install lomo-optim)",
         Quality.SLIGHT, _ADALOMO, _fused_into_backward, effort=Effort.INSTALL),
    _row("lion_32bit", "Use Lion, which has one state", Quality.REAL, _LION),
    _row("lion_8bit", "Use Lion with its one state in 8 bit", Quality.REAL, _LION),
    _row("paged_lion_8bit", "Use Lion, its one state in 8 bit paged to host memory", Quality.REAL,
         _LION),
    _row("sgd", "Use SGD, which has no states", Quality.REAL, _SGD),
    _row("lomo", "Use LOMO, SGD inside backward (pip install lomo-optim)", Quality.REAL, _LOMO,
         _fused_into_backward, effort=Effort.INSTALL),
)  # fmt: skip
