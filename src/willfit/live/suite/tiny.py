"""Small versions of scenarios, with which the whole path runs on a CPU in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from willfit.live.shortened import with_config
from willfit.scenario import Scenario

LENGTH: Final = 24
SIZES: Final[Mapping[str, int]] = {
    "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32, "head_dim": 16,
    "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 512, "num_experts": 4,
    "num_experts_per_tok": 2, "query_pre_attn_scalar": 16,
}  # fmt: skip


def tiny(scenario: Scenario) -> Scenario:
    """The scenario of a small model with few and short sequences."""
    name = f"{scenario.model.id}, tiny"
    return tiny_work(with_config(scenario, tiny_config(scenario.model.config), name))


def tiny_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the same fields and small sizes; grouped queries stay grouped."""
    small = {key: SIZES.get(key, value) for key, value in config.items()}
    grouped = config.get("num_key_value_heads") != config.get("num_attention_heads")
    if "num_key_value_heads" in config:
        small["num_key_value_heads"] = 2 if grouped else 4
    for key in ("layer_types", "max_window_layers"):
        small.pop(key, None)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if small.get(key) is not None:
            small[key] = 0
    return small


def tiny_work(scenario: Scenario) -> Scenario:
    """The scenario with few and short sequences."""
    work = scenario.workload
    if work.training is not None:
        batch = min(work.training.micro_batch_size or 2, 2)
        small: Any = replace(work.training, micro_batch_size=batch, max_length=LENGTH)
        return replace(scenario, workload=replace(work, training=small))
    if work.inference is not None:
        batch = min(work.inference.batch_size, 2)
        small = replace(work.inference, batch_size=batch, context_len=LENGTH, max_new_tokens=4)
        return replace(scenario, workload=replace(work, inference=small))
    return scenario
