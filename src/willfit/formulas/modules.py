"""What a model's tensor table says of its modules: which projections are fused into one."""

from __future__ import annotations

from typing import Final

from willfit.scenario.model import Architecture, ModelSpec

FUSED_QKV: Final = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")
"""Names of the one product that makes queries, keys and values."""
COPIES_FUSED_QKV: Final = ("falcon",)
"""Model types that index the fused product, which copies, so that it can be freed
(modeling_falcon.py `_split_heads`)."""
FUSED_GATE_UP: Final = ("gate_up_proj",)
"""Names of the one product that makes gate and up."""

TOWERS: Final = ("vision", "visual", "image", "audio", "multi_modal", "mm_")
"""Name parts of what only images and sound go through."""

FLOAT32_NORMS: Final = frozenset({
    "AfmoeRMSNorm", "BeamRMSNorm", "DeepseekV4RMSNorm", "FlexOlmoRMSNorm", "FlintRMSNorm",
    "GptOssRMSNorm", "HeliumRMSNorm", "Inkling2RMSNorm", "MoshiRMSNorm", "NemotronHRMSNorm",
    "Olmo2RMSNorm", "Olmo3RMSNorm", "OlmoHybridRMSNorm", "Qwen3NextRMSNorm", "Qwen3_5RMSNorm",
    "Qwen3_5MoeRMSNorm", "Qwen4ExpTextRMSNorm", "RecurrentGemmaRMSNorm", "T5GemmaRMSNorm",
    "VaultGemmaRMSNorm",
})  # fmt: skip
"""Classes beside Gemma's whose weight multiplies before the result is cast back (transformers 5.23
modeling_*.py): what they normalised is kept in float32 for the weight's gradient."""


def in_tower(name: str) -> bool:
    """Whether a tensor is one that no token of text meets."""
    return any(part in name for part in TOWERS)


def norms_in_float32(model: ModelSpec) -> bool:
    """Whether a norm of `FLOAT32_NORMS` owns a weight."""
    return any(row.module in FLOAT32_NORMS for row in model.tensors)


def num_layer_norms(model: ModelSpec, architecture: Architecture) -> int:
    """Norms of the stream in each layer, by the tensor table; the class's where it tells none."""
    found = sum(
        row.module.endswith("Norm")
        and row.name.endswith("weight")
        and row.shape == (architecture.hidden_size,)
        and row.count == architecture.num_layers
        for row in model.tensors
    )
    return min(found, architecture.norms_per_layer) or architecture.norms_per_layer


def keeps_fused_qkv(model: ModelSpec) -> bool:
    """Whether queries, keys and values are views of one product that stays alive."""
    copies = str(model.config.get("model_type")) in COPIES_FUSED_QKV
    return has_module(model, *FUSED_QKV) and not copies


def has_module(model: ModelSpec, *names: str) -> bool:
    """Whether a module of one of these names owns a tensor (experts' fused parameters do not)."""
    return not model.module_names.isdisjoint(names)
