"""``TrainingArguments`` and TRL's ``SFTConfig``: their fields at the stack's versions."""

from __future__ import annotations

from typing import Final, Literal

from willfit.changes.current import dtype_of
from willfit.dtypes import BFLOAT16, FLOAT16
from willfit.emitting.call import Call, Keywords
from willfit.emitting.launch import launch
from willfit.emitting.loading import CAUSAL, CLASSIFIER, auto_class
from willfit.emitting.versions import (
    EVAL_STRATEGY_SINCE,
    MAX_LENGTH_SINCE,
    SAMPLING_STRATEGY_SINCE,
    require,
    require_optimizer,
)
from willfit.errors import InputError
from willfit.formulas.training.optimizers import LOW_RANK, canonical, find_optimizer
from willfit.formulas.training.settings import (
    autocast_of,
    checkpointing_of,
    default_length,
    micro_batch_of,
    optimizer_of,
)
from willfit.scenario import Scenario, Stack, Training

TrainerClass = Literal["transformers", "trl"]
LOW_RANK_TARGETS: Final = "all-linear"


def trainer_class(scenario: Scenario) -> TrainerClass:
    """Whose trainer runs it: TRL's is for causal language models alone."""
    training = _training(scenario)
    return "trl" if training.trainer == "trl" and auto_class(scenario) == CAUSAL else "transformers"


def training_call(scenario: Scenario, trainer: TrainerClass | None = None) -> Call:
    """All fields that decide memory or time, each said, whatever the library's default.

    ``trainer`` is the scenario's own where None. Raises `InputError` for what it cannot do.
    """
    training, stack = _training(scenario), scenario.stack
    trainer = trainer or trainer_class(scenario)
    _refuse(scenario, training, trainer)
    keywords = Keywords()
    keywords.set("output_dir", "out")
    _batches(training, keywords)
    _checkpointing(training, stack, keywords)
    _optimizer(training, stack, keywords)
    _precision(training, keywords)
    if training.use_liger_kernel:
        require(stack, "use_liger_kernel")
        keywords.set("use_liger_kernel", True, "the loss without whole logits (liger-kernel)")
    if training.group_by_length:
        _grouped(stack, keywords)
    if _all_adapters_used(scenario):
        keywords.set("ddp_find_unused_parameters", False, "every adapter is used in every step")
    if trainer == "trl":
        _sft(scenario, training, keywords)
    recent = stack.at_least("transformers", EVAL_STRATEGY_SINCE)
    name = "eval_strategy" if recent else "evaluation_strategy"
    keywords.set(name, "no", "an evaluation is not in the estimate")
    if auto_class(scenario) == CLASSIFIER:
        batch = micro_batch_of(training)
        keywords.set("per_device_eval_batch_size", batch, "for the prediction after training")
    keywords.set("save_strategy", "epoch")
    keywords.set("save_total_limit", 1, "the newest checkpoint alone stays on the disk")
    keywords.set("report_to", "none")
    if trainer == "trl":
        return keywords.call("trl", "SFTConfig")
    return keywords.call("transformers", "TrainingArguments")


def length_of(scenario: Scenario) -> int:
    """Tokens at which a sequence is cut: what the estimate takes as the longest."""
    training = _training(scenario)
    if training.max_length is not None:
        return training.max_length
    if training.lengths:
        return max(training.lengths)
    return default_length(scenario.model.architecture)


def _training(scenario: Scenario) -> Training:
    if scenario.workload.training is None:
        raise InputError("a training script needs a training scenario: add --train")
    return scenario.workload.training


def _refuse(scenario: Scenario, training: Training, trainer: TrainerClass) -> None:
    if training.packing and trainer != "trl":
        raise InputError("packing is TRL's SFTTrainer's: use --trainer trl, or leave --packing out")
    if training.bf16 and training.fp16:
        raise InputError("bf16 and fp16 are both set: leave one out")
    if training.method == "full" and scenario.workload.loading.quantization is not None:
        raise InputError("quantised weights train through an adapter only: use --train qlora")
    float16 = dtype_of(scenario) is FLOAT16
    if float16 and training.fp16 and training.method == "full":
        raise InputError(
            "fp16 mixed precision cannot train float16 weights (torch: 'Attempting to unscale FP16 "
            "gradients'): load in float32, or train in bfloat16"
        )
    if trainer == "trl":
        require(scenario.stack, "SFTConfig")


def _all_adapters_used(scenario: Scenario) -> bool:
    """Whether DDP can skip its search, which reentrant checkpointing under PEFT does not survive.

    Experts that no token goes to are unused.
    """
    architecture = scenario.model.architecture
    how = launch(scenario)
    return (
        _training(scenario).lora_config is not None
        and how.strategy == "ddp"
        and how.num_processes > 1
        and architecture is not None
        and not any(group.mlp and group.mlp.num_experts for group in architecture.layers)
    )


def _batches(training: Training, keywords: Keywords) -> None:
    batch = micro_batch_of(training)
    steps = training.gradient_accumulation_steps
    keywords.set("per_device_train_batch_size", batch, "the micro-batch that memory depends on")
    reason = f"{batch * steps} sequences an optimizer step and process" if steps > 1 else ""
    keywords.set("gradient_accumulation_steps", steps, reason)


def _checkpointing(training: Training, stack: Stack, keywords: Keywords) -> None:
    checkpointing = checkpointing_of(training)
    reason = "keeps layer inputs, computes the rest again" if checkpointing else ""
    keywords.set("gradient_checkpointing", checkpointing, reason)
    if not checkpointing:
        return
    require(stack, "gradient_checkpointing_kwargs")
    keywords.set("gradient_checkpointing_kwargs", {"use_reentrant": bool(training.use_reentrant)})


def _optimizer(training: Training, stack: Stack, keywords: Keywords) -> None:
    name = canonical(optimizer_of(training, stack))
    optimizer = find_optimizer(name)
    if name == "lorafa":
        raise InputError("optim lorafa is PEFT's own and the Trainer has no such name: use another")
    require_optimizer(stack, name)
    reason = ""
    if optimizer.paged:
        reason = "states page to host memory when the GPU is full"
    elif optimizer.eight_bit:
        reason = "states in 8 bit" if "4bit" not in name else "states in 4 bit"
    keywords.set("optim", name, reason)
    if name in LOW_RANK:
        keywords.set("optim_target_modules", LOW_RANK_TARGETS, "whose gradients are projected")
    grad_norm = training.max_grad_norm
    keywords.set("max_grad_norm", 0.0 if grad_norm is None else grad_norm)


def _precision(training: Training, keywords: Keywords) -> None:
    """Both said: TRL's default is bf16, and a card without it needs the other."""
    autocast = autocast_of(training)
    bf16, fp16 = autocast is BFLOAT16, autocast is FLOAT16
    keywords.set("bf16", bf16, "autocast" if bf16 else "")
    keywords.set("fp16", fp16, "autocast with loss scaling" if fp16 else "")


def _grouped(stack: Stack, keywords: Keywords) -> None:
    reason = "rows of like length together: less padding"
    if stack.at_least("transformers", SAMPLING_STRATEGY_SINCE):
        keywords.set("train_sampling_strategy", "group_by_length", reason)
    else:
        keywords.set("group_by_length", True, reason)


def _sft(scenario: Scenario, training: Training, keywords: Keywords) -> None:
    recent = scenario.stack.at_least("trl", MAX_LENGTH_SINCE)
    name = "max_length" if recent else "max_seq_length"
    keywords.set(name, length_of(scenario), "longer sequences are cut")
    keywords.set("packing", training.packing, "no padding" if training.packing else "")
    keywords.set("dataset_text_field", "text")
    if training.offload_activations:
        require(scenario.stack, "activation_offloading")
        keywords.set("activation_offloading", True, "activations wait in host memory")
