"""Attention: the implementation, and the kernel of SDPA."""

from __future__ import annotations

from functools import partial
from typing import Final

from willfit.changes.change import Change, Effort, Guard, guarded
from willfit.changes.current import compute_dtype, gpus, implementation_of, lowest_sm, model_type
from willfit.changes.edit import with_inference, with_training
from willfit.changes.guards import on_transformers, works
from willfit.dtypes import FLOAT32
from willfit.scenario import Scenario

WITHOUT_FLASH: Final = frozenset({
    "bloom", "convnext", "deberta-v2", "deepseek_v32", "deepseek_v4", "falcon_mamba", "gpt_oss",
    "glm_moe_dsa", "idefics", "llama4", "llama4_text", "mamba", "mamba2", "mllama", "mpnet", "mpt",
    "mt5", "sam", "swin", "t5",
})  # fmt: skip
"""Model types of the catalogue whose class takes no FlashAttention-2 (transformers 5.23, classes
without ``_supports_flash_attn``; gpt_oss has sinks, which version 2 does not know)."""
WITHOUT_SDPA: Final = frozenset({
    "bloom", "convnext", "deberta-v2", "deepseek_v4", "falcon_mamba", "gemma2", "gpt_neo",
    "gpt_oss", "gptj", "mamba", "mamba2", "mimo_v2_flash", "mpnet", "mpt",
})  # fmt: skip
"""The same without ``_supports_sdpa``."""


def _attn(name: str, scenario: Scenario) -> Scenario:
    change = with_training if scenario.workload.training is not None else with_inference
    return change(scenario, attn=name)


def _from(*names: str) -> Guard:
    """Only from these implementations."""

    def guard(scenario: Scenario) -> str | None:
        now = implementation_of(scenario)
        return None if now in names else f"attention is {now}"

    return guard


def _has_sdpa(scenario: Scenario) -> str | None:
    architecture = scenario.model.architecture
    lacks = architecture is not None and not architecture.supports_sdpa
    if lacks or model_type(scenario) in WITHOUT_SDPA:
        return f"{scenario.model.model_class} has no SDPA path"
    return None


def _takes_flash(scenario: Scenario) -> str | None:
    sm, dtype = lowest_sm(scenario), compute_dtype(scenario)
    if sm < 80 or any(gpu.vendor != "nvidia" for gpu in gpus(scenario)):
        return "flash-attn needs an NVIDIA GPU of compute capability 8.0"
    if dtype is FLOAT32:
        return "flash-attn runs in 16 bit and products are float32"
    architecture = scenario.model.architecture
    if model_type(scenario) in WITHOUT_FLASH or (architecture and architecture.relative_bias):
        return f"{scenario.model.model_class} takes no FlashAttention-2"
    groups = (*architecture.layers, *architecture.encoder_layers) if architecture else ()
    heads = [g.attention for g in groups if g.attention is not None]
    if not heads:
        return "the model has no softmax attention that the formulas know"
    if any(max(head.head_dim, head.v_head_dim) > 256 for head in heads):
        return "flash-attn takes heads of at most 256"
    return None


ATTENTION: Final = (
    Change(
        id="attn=sdpa",
        setting="attn",
        title="Use SDPA attention instead of eager, which keeps scores of every pair",
        apply=guarded(partial(_attn, "sdpa"), works, on_transformers, _from("eager"), _has_sdpa),
    ),
    Change(
        id="attn=flash_attention_2",
        setting="attn",
        title="Use FlashAttention-2 (pip install flash-attn)",
        apply=guarded(
            partial(_attn, "flash_attention_2"), works, on_transformers, _from("eager", "sdpa"),
            _takes_flash,
        ),
        effort=Effort.INSTALL,
    ),
)  # fmt: skip
