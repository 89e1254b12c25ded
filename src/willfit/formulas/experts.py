"""Experts of mixture models: one fused tensor in transformers 5, a list of ``nn.Linear`` before.

transformers 5.23 conversion_mapping.py: the checkpoints of these model types hold one tensor per
expert, which loading stacks (`MergeModulelist`) and joins (`Concatenate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.scenario.model import ModelSpec, TensorRow
from willfit.scenario.stack import Stack
from willfit.sources.stored import QUANTIZED_MODULE

FUSED_SINCE: Final = "5.0"
"""transformers release whose classes hold all experts of a layer in one parameter."""

MERGED_TYPES: Final = frozenset({
    "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_ocr2",
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1",
    "dots3_note_vision_encoder", "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "glm4_moe",
    "glm4_moe_lite", "glm4v_moe", "glm5_next", "glm5_next_text", "glm_moe_dsa", "hunyuan_v1_moe",
    "hy_v3", "jamba", "kimi_k25", "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "longcat_flash",
    "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl", "mistral_large4_text",
    "mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe",
    "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker",
    "qwen4_exp_text", "solar_open",
})  # fmt: skip
"""Model types whose checkpoints hold one tensor per expert."""

_JOINED: Final = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",),
                  "up_proj": ("up_proj",)}  # fmt: skip
"""Parts of each fused parameter: the joined ones are halves of its second axis."""


def is_merged(row: TensorRow, model: ModelSpec) -> bool:
    """Whether loading makes this tensor out of one checkpoint tensor per expert."""
    text = model.config.get("text_config")
    types = {model.config.get("model_type"), isinstance(text, dict) and text.get("model_type")}
    last = row.name.rpartition(".")[2]
    return (
        len(row.shape) == 3
        and last in _JOINED
        and row.owner.endswith("experts")
        and not MERGED_TYPES.isdisjoint(types)
    )


COPIED_SINCE: Final = "5.0"
"""transformers release whose ``generate`` decodes with a copy of every token's experts.

generation/utils.py `_optimize_model_for_decode`, pull request 43126 of January 2026: on a GPU
``grouped_mm`` becomes ``batched_mm`` after prefill.
"""
_OWN_CODE: Final = frozenset({"Llama4TextExperts", "DbrxExpertGLU"})
"""Classes of experts that do not go through transformers' interface of implementations."""


def copies_experts(model: ModelSpec, stack: Stack) -> bool:
    """Whether decoding copies the weights of the experts that each token goes to."""
    fused = any(
        len(row.shape) == 3 and row.owner.endswith("experts") and row.module not in _OWN_CODE
        for row in model.tensors
    )
    return fused and model.quantization is None and stack.at_least("transformers", COPIED_SINCE)


_FLOAT32_WEIGHTS: Final = frozenset({
    "afmoe", "axk1", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "exaone_moe",
    "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "hunyuan_v1_moe", "hy_v3", "jamba", "kimi_linear",
    "longcat_flash", "mimo_v2_flash", "minimax", "minimax_m2", "mixtral", "nemotron_h",
    "solar_open",
})  # fmt: skip
"""Model types whose routers hand their weights on in float32 (transformers 5.23 modeling_*.py;
Qwen's, OLMoE's and others cast them to the logits' type)."""


def weighs_in_float32(model: ModelSpec) -> bool:
    """Whether the product of experts' outputs and routing weights is promoted to float32."""
    text = model.config.get("text_config")
    types = {model.config.get("model_type"), isinstance(text, dict) and text.get("model_type")}
    return not _FLOAT32_WEIGHTS.isdisjoint(types)


def as_in_stack(row: TensorRow, model: ModelSpec, stack: Stack) -> Iterator[TensorRow]:
    """The row, or before transformers 5 its experts one by one, each an ``nn.Linear``.

    [E, N, K] fused is E·[N, K]; gate and up joined are two of [N/2, K]. One that the checkpoint
    stores quantised stays so.
    """
    if stack.at_least("transformers", FUSED_SINCE):
        yield row
        return
    if not is_merged(row, model):
        yield from _packed_in_stack(row)
        return
    experts, n, k = row.shape
    parts = _JOINED[row.name.rpartition(".")[2]]
    for part in parts:
        yield replace(
            row,
            name=f"{row.owner}.{{0-{experts - 1}}}.{part}.weight",
            shape=(n // len(parts), k),
            module=row.module if row.module == QUANTIZED_MODULE else "Linear",
        )


def _packed_in_stack(row: TensorRow) -> Iterator[TensorRow]:
    """GPTQ's and AWQ's tensors of fused experts ([E, …, N], ``g_idx`` [E, K]) one by one."""
    experts, _, fused = row.owner.rpartition(".")
    if row.module != QUANTIZED_MODULE or fused not in _JOINED or not experts.endswith("experts"):
        yield row
        return
    number, *shape = row.shape
    last = row.name.rpartition(".")[2]
    for part in _JOINED[fused]:
        own = shape if last == "g_idx" else [*shape[:-1], shape[-1] // len(_JOINED[fused])]
        name = f"{experts}.{{0-{number - 1}}}.{part}.{last}"
        yield replace(row, name=name, shape=tuple(own))
