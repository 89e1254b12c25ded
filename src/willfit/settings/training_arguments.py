"""``TrainingArguments`` and TRL configs as YAML or JSON."""

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


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether a mapping is of this kind: any setting of the Trainer's that decides memory."""
    return any(str(key).replace("-", "_") in MARKS for key in content)


MARKS: Final = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs",
    "learning_rate", "optim", "gradient_checkpointing", "max_seq_length", "max_length",
    "output_dir",
)  # fmt: skip


def read(content: Mapping[str, Any]) -> Settings:
    """Settings of a Trainer or TRL file; a file with TRL's own keys is TRL's."""
    flags, ignored = convert_all(content, TABLE, HARMLESS)
    model = flags.pop("model", None)
    trl = any(str(key) in _TRL for key in content)
    if trl:
        flags["trainer"] = "trl"
    peft = bool(content.get("use_peft")) or "lora_r" in flags
    quantized = flags.get("quantize")
    if quantized in ("nf4", "fp4"):
        flags["train"] = "qlora"
    else:
        flags["train"] = "lora" if peft else "full"
    if flags["train"] == "full" and quantized:
        raise InputError(
            "the settings load the model quantised and train it without an adapter: set use_peft"
        )
    kind = "TRL" if trl else "Trainer"
    return Settings(
        flags=flags,
        model=model if isinstance(model, str) else None,
        ignored=ignored,
        assumptions=(f"settings read as those of a {kind} run ({flags['train']})",),
    )


_TRL: Final = ("max_seq_length", "packing", "use_peft", "load_in_4bit", "dataset_text_field",
               "lora_r", "padding_free", "activation_offloading")  # fmt: skip


def _four_bit(value: Any) -> Mapping[str, Any]:
    return {"quantize": "nf4"} if value else {}


def _eight_bit(value: Any) -> Mapping[str, Any]:
    return {"quantize": "int8"} if value else {}


def _liger(value: Any) -> Mapping[str, Any]:
    return {"use_liger_kernel": True} if value else {}


def _sampling(value: Any) -> Mapping[str, Any]:
    """What ``group_by_length`` became in transformers 5."""
    return {"group_by_length": True} if value == "group_by_length" else {}


def _kwargs(value: Any) -> Mapping[str, Any]:
    if isinstance(value, dict) and "use_reentrant" in value:
        return {"use_reentrant": bool(value["use_reentrant"])}
    return {}


def _fraction(name: str) -> Convert:
    def convert(value: Any) -> Mapping[str, Any]:
        try:
            return {name: float(value)}
        except (TypeError, ValueError):
            raise InputError(f"{name} is {str(value)[:40]!r}: expected a number") from None

    return convert


def _words(name: str) -> Convert:
    def convert(value: Any) -> Mapping[str, Any]:
        words = value.replace(",", " ").split() if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError(f"{name} is {str(value)[:40]!r}: expected a list of module names")
        return {name: words}

    return convert


TABLE: Final[dict[str, Convert]] = {
    "model_name_or_path": renamed("model"),
    "model_id": renamed("model"),
    "base_model": renamed("model"),
    "model_revision": renamed("revision"),
    "per_device_train_batch_size": whole("per_device_train_batch_size"),
    "gradient_accumulation_steps": whole("gradient_accumulation_steps"),
    "gradient_checkpointing": both_ways("gradient_checkpointing"),
    "gradient_checkpointing_kwargs": _kwargs,
    "optim": renamed("optim"),
    "bf16": both_ways("bf16"),
    "fp16": both_ways("fp16"),
    "max_grad_norm": _fraction("max_grad_norm"),
    "max_length": whole("max_length"),
    "max_seq_length": whole("max_length"),
    "packing": switch("packing"),
    "use_liger_kernel": _liger,
    "use_liger": _liger,
    "activation_offloading": switch("activation_offloading"),
    "group_by_length": switch("group_by_length"),
    "train_sampling_strategy": _sampling,
    "attn_implementation": renamed("attn"),
    "torch_dtype": lambda value: {} if value in ("auto", None) else {"dtype": str(value)},
    "dtype": lambda value: {} if value in ("auto", None) else {"dtype": str(value)},
    "load_in_4bit": _four_bit,
    "load_in_8bit": _eight_bit,
    "bnb_4bit_compute_dtype": renamed("bnb_4bit_compute_dtype"),
    "lora_r": whole("lora_r"),
    "lora_dropout": _fraction("lora_dropout"),
    "lora_target_modules": _words("lora_target_modules"),
    "lora_modules_to_save": _words("modules_to_save"),
    "trust_remote_code": switch("trust_remote_code"),
    "deepspeed": deepspeed,
    "fsdp": fsdp,
    "use_peft": nothing,
}
"""Settings that decide memory, by their name in the file."""

HARMLESS: Final = (
    "learning_rate", "num_train_epochs", "max_steps", "warmup_ratio", "warmup_steps",
    "weight_decay", "lr_scheduler_type", "logging_steps", "save_steps", "save_strategy",
    "eval_strategy", "evaluation_strategy", "output_dir", "overwrite_output_dir", "seed",
    "report_to", "run_name", "push_to_hub", "hub_model_id", "dataset_name", "dataset_text_field",
    "dataset_config", "logging_dir", "log_level", "save_total_limit", "load_best_model_at_end",
    "adam_beta1", "adam_beta2", "adam_epsilon", "lora_alpha", "eval_steps", "logging_strategy",
    "remove_unused_columns", "dataloader_num_workers", "tf32", "ddp_find_unused_parameters",
    "hub_strategy", "task_type", "do_train", "do_eval", "bnb_4bit_quant_storage",
)  # fmt: skip
"""Settings that memory does not depend on."""
