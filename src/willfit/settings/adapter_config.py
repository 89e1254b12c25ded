"""PEFT's ``adapter_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from willfit.errors import InputError
from willfit.settings.settings import Settings


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether a mapping is of this kind."""
    return "peft_type" in content


def read(content: Mapping[str, Any]) -> Settings:
    """Rank, targets, dropout and saved modules of LoRA; another method as it is, for the trace."""
    method = str(content.get("peft_type")).upper()
    base = content.get("base_model_name_or_path")
    if method != "LORA":
        return Settings(
            flags={"adapter_config": dict(content), "train": "lora"},
            model=base if isinstance(base, str) and base else None,
        )
    rank = content.get("r", 8)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= 2**20:
        raise InputError(f"r is {str(rank)[:40]!r} in the adapter config: expected a whole number")
    flags: dict[str, Any] = {"lora_r": rank, "lora_dropout": _dropout(content)}
    ignored = []
    targets = content.get("target_modules")
    if isinstance(targets, str):
        flags["lora_target_modules"] = [targets]
    elif isinstance(targets, list) and all(isinstance(name, str) for name in targets):
        flags["lora_target_modules"] = sorted(targets)
    saved = content.get("modules_to_save")
    if isinstance(saved, list) and saved:
        flags["modules_to_save"] = [str(name) for name in saved]
    if content.get("use_dora"):
        flags["use_dora"] = True
    for key in (
        "rank_pattern",
        "layers_to_transform",
        "layer_replication",
        "trainable_token_indices",
    ):
        if content.get(key):
            ignored.append(f"{key}: every adapted layer is counted with the same rank")
    model = content.get("base_model_name_or_path")
    return Settings(
        flags=flags,
        model=model if isinstance(model, str) and model else None,
        ignored=tuple(ignored),
    )


def _dropout(content: Mapping[str, Any]) -> float:
    value = content.get("lora_dropout", 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise InputError(f"lora_dropout is {str(value)[:40]!r}: expected 0 to below 1")
    return float(value)
