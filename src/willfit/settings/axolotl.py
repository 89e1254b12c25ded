"""Axolotl's YAML: its own names for a Trainer run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from willfit.errors import InputError
from willfit.settings.settings import (
    Convert,
    Settings,
    both_ways,
    convert_all,
    nothing,
    renamed,
    switch,
    whole,
)
from willfit.settings.strategies import deepspeed, fsdp
from willfit.settings.training_arguments import HARMLESS as TRAINER_HARMLESS

MARKS: Final = ("micro_batch_size", "sequence_len", "adapter", "sample_packing", "datasets")


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether a mapping is of this kind: a base model and one of Axolotl's own settings."""
    return "base_model" in content and any(mark in content for mark in MARKS)


def read(content: Mapping[str, Any]) -> Settings:
    """Settings of an Axolotl file; ``adapter`` decides between full, LoRA and QLoRA."""
    adapter = content.get("adapter") or None
    if adapter not in (None, "lora", "qlora"):
        raise InputError(
            f"adapter {str(adapter)[:30]!r} has no closed formula: expected lora, qlora or none"
        )
    flags, ignored = convert_all(content, TABLE, HARMLESS)
    model = flags.pop("model", None)
    flags["train"] = adapter or "full"
    return Settings(
        flags=flags,
        model=model if isinstance(model, str) else None,
        ignored=ignored,
        assumptions=(f"settings read as those of an Axolotl run ({flags['train']})",),
    )


def _quantize(name: str) -> Convert:
    return lambda value: {"quantize": name} if value else {}


def _bf16(value: Any) -> Mapping[str, Any]:
    """``auto`` takes bfloat16 where the card has it, which is the usual case."""
    return {"bf16": True} if value in (True, "auto", "full") else {}


def _checkpointing(value: Any) -> Mapping[str, Any]:
    return {"gradient_checkpointing": bool(value)}


def _targets(value: Any) -> Mapping[str, Any]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {"lora_target_modules": value}
    raise InputError(f"lora_target_modules is {str(value)[:40]!r}: expected a list of names")


def _linear(value: Any) -> Mapping[str, Any]:
    return {"lora_target_modules": ["all-linear"]} if value else {}


TABLE: Final[dict[str, Convert]] = {
    "base_model": renamed("model"),
    "adapter": nothing,
    "load_in_4bit": _quantize("nf4"),
    "load_in_8bit": _quantize("int8"),
    "micro_batch_size": whole("per_device_train_batch_size"),
    "gradient_accumulation_steps": whole("gradient_accumulation_steps"),
    "sequence_len": whole("max_length"),
    "sample_packing": switch("packing"),
    "pad_to_sequence_len": nothing,
    "lora_r": whole("lora_r"),
    "lora_dropout": renamed("lora_dropout"),
    "lora_target_modules": _targets,
    "lora_target_linear": _linear,
    "lora_modules_to_save": renamed("modules_to_save"),
    "optimizer": renamed("optim"),
    "bf16": _bf16,
    "fp16": both_ways("fp16"),
    "gradient_checkpointing": _checkpointing,
    "flash_attention": lambda value: {"attn": "flash_attention_2"} if value else {},
    "sdp_attention": lambda value: {"attn": "sdpa"} if value else {},
    "eager_attention": lambda value: {"attn": "eager"} if value else {},
    "attn_implementation": renamed("attn"),
    "deepspeed": deepspeed,
    "fsdp": fsdp,
    "liger_fused_linear_cross_entropy": switch("use_liger_kernel"),
    "trust_remote_code": switch("trust_remote_code"),
}
"""Settings that decide memory, by Axolotl's name."""

HARMLESS: Final = (
    *TRAINER_HARMLESS, "datasets", "dataset_prepared_path", "val_set_size", "num_epochs",
    "lr_scheduler", "wandb_project", "wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model",
    "special_tokens", "strict", "train_on_inputs", "group_by_length", "tokenizer_type",
    "model_type", "evals_per_epoch", "saves_per_epoch", "resume_from_checkpoint", "plugins",
    "chat_template", "eval_sample_packing", "loss_watchdog_threshold", "is_llama_derived_model",
)  # fmt: skip
"""Settings that memory does not depend on."""
