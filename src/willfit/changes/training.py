"""Training: checkpointing, autocast, Liger, the chunked loss, offloaded activations."""

from __future__ import annotations

from typing import Any, Final

from willfit.changes.change import Change, Edit, Effort, Quality, guarded
from willfit.changes.current import (
    dtype_of,
    lowest_sm,
    model_type,
    optimizer_name,
)
from willfit.changes.edit import training_of, with_training
from willfit.changes.guards import adapts, on_transformers, trains
from willfit.changes.loading import in_range
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.formulas.training.settings import autocast_of, checkpointing_of
from willfit.scenario import Scenario

WITHOUT_CHECKPOINTING: Final = frozenset({"albert", "convnext", "mpnet"})
"""Model types of the catalogue without ``supports_gradient_checkpointing`` (transformers 5.23)."""
LIGER: Final = frozenset({
    "deepseek_v2", "deepseek_v3", "deepseek_v4", "exaone4", "falcon_h1", "gemma", "gemma2",
    "gemma3", "gemma3_text", "gemma4", "gemma4_text", "glm4", "glm4v", "glm4v_moe", "gpt_oss",
    "granite", "hunyuan_v1_dense", "hunyuan_v1_moe", "internvl", "llama", "llama4", "llama4_text",
    "llava", "ministral", "mistral", "mixtral", "mllama", "mllama_text_model", "muse_glimmer",
    "nemotron", "olmo2", "olmo3", "paligemma", "phi3", "pixtral", "qwen2", "qwen2_5_vl",
    "qwen2_5_vl_text", "qwen2_vl", "qwen2_vl_text", "qwen3", "qwen3_5", "qwen3_5_moe",
    "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe",
    "qwen3_vl_moe_text", "qwen3_vl_text", "smollm3", "smolvlm",
})  # fmt: skip
"""Model types that Liger 0.8.5 patches (transformers/monkey_patch.py)."""


def _int8(scenario: Scenario) -> bool:
    quantization = scenario.workload.loading.quantization
    return quantization is not None and quantization.scheme == "int8"


def _checkpoint(scenario: Scenario) -> Scenario:
    """LLM.int8 keeps inputs where saved-tensor hooks do not see them: reentrant frees them too."""
    training = training_of(scenario)
    reentrant = True if _int8(scenario) else training.use_reentrant
    return with_training(scenario, gradient_checkpointing=True, use_reentrant=reentrant)


def _not_checkpointed(scenario: Scenario) -> str | None:
    if checkpointing_of(training_of(scenario)):
        return "gradient checkpointing is on"
    if scenario.model.library != "transformers":
        return f"{scenario.model.library} has it by model, not as a setting"
    kind = model_type(scenario)
    return f"{kind} has no gradient checkpointing" if kind in WITHOUT_CHECKPOINTING else None


def _checkpointed(scenario: Scenario) -> str | None:
    return None if checkpointing_of(training_of(scenario)) else "gradient checkpointing is off"


def _hides_inputs(scenario: Scenario) -> str | None:
    if training_of(scenario).use_reentrant:
        return "checkpointing is reentrant"
    return None if _int8(scenario) else "only LLM.int8 keeps more with non-reentrant checkpointing"


def _prepared(scenario: Scenario) -> str | None:
    return None if training_of(scenario).prepare_kbit else "the model is not prepared"


def _upcast_is_not_needed(scenario: Scenario) -> str | None:
    """float16 without autocast or float32 norms is what the preparation is for."""
    if dtype_of(scenario) is FLOAT16 and autocast_of(training_of(scenario)) is None:
        return "float16 norms without autocast are unstable"
    return None


def _fp16_scales(scenario: Scenario) -> str | None:
    """GradScaler takes float32 gradients alone (torch/amp/grad_scaler.py `_unscale_grads_`)."""
    training = training_of(scenario)
    if training.method == "full" and dtype_of(scenario) is not FLOAT32:
        return f"GradScaler does not unscale {dtype_of(scenario).name} gradients"
    quantized = scenario.workload.loading.quantization is not None
    if training.trainer == "trl" and quantized and training.method != "full":
        return "TRL casts adapters on quantised weights to bfloat16, which GradScaler refuses"
    lora = training.lora_config
    if lora is not None and lora.dtype not in (None, FLOAT32):
        return f"GradScaler does not unscale {lora.dtype.name} gradients"
    return None


def _emulated(scenario: Scenario) -> str | None:
    if autocast_of(training_of(scenario)) is not BFLOAT16:
        return "autocast is not in bfloat16"
    sm = lowest_sm(scenario)
    return None if sm < 80 else f"sm_{sm} computes in bfloat16"


def _float32_without_autocast(scenario: Scenario) -> str | None:
    training = training_of(scenario)
    autocast = autocast_of(training)
    if autocast is not None:
        return f"autocast is on, in {autocast.name}"
    now = dtype_of(scenario)
    plain = now is FLOAT32 or bool(training.prepare_kbit)
    return None if plain else f"the model computes in {now.name} without it"


def _native_bf16(scenario: Scenario) -> str | None:
    sm = lowest_sm(scenario)
    return None if sm >= 80 else f"sm_{sm} only emulates bfloat16"


def _old_gpu(scenario: Scenario) -> str | None:
    return None if lowest_sm(scenario) < 80 else "bfloat16 has the same speed and more range"


def _liger(scenario: Scenario) -> str | None:
    training = training_of(scenario)
    if training.use_liger_kernel:
        return "Liger's kernels are on"
    kind = model_type(scenario)
    if kind not in LIGER:
        return f"Liger has no kernels for {kind or 'this model'}"
    if lowest_sm(scenario) < 70:
        return "Triton needs compute capability 7.0"
    return "outputs of a plain loop's model are read whole" if training.loss == "logits" else None


def _to_trl(scenario: Scenario) -> Scenario:
    """TRL's trainer with what the other one had, but for the loss."""
    training = training_of(scenario)
    autocast = autocast_of(training)
    return with_training(
        scenario,
        trainer="trl",
        gradient_checkpointing=checkpointing_of(training),
        bf16=autocast is BFLOAT16,
        fp16=autocast is FLOAT16,
        optimizer=optimizer_name(scenario, training),
    )


def _whole_logits(scenario: Scenario) -> str | None:
    training = training_of(scenario)
    if training.trainer == "trl":
        return "TRL's loss is chunked"
    if training.use_liger_kernel:
        return "Liger's loss is chunked"
    if training.loss == "logits":
        return "the script reduces the logits itself"
    causal = scenario.model.model_class.endswith("ForCausalLM")
    return None if causal and not scenario.model.classifier else "it is no causal language model"


def _offloads(scenario: Scenario) -> str | None:
    training = training_of(scenario)
    if training.offload_activations:
        return "activations are offloaded"
    return None if training.trainer == "trl" else "it is a setting of TRL's SFTConfig"


def _sets(**fields: Any) -> Edit:
    return lambda scenario: with_training(scenario, **fields)


CHECKPOINTING: Final = (
    Change(
        id="gradient_checkpointing",
        setting="gradient_checkpointing",
        title="Compute each layer's activations again in backward (gradient checkpointing)",
        apply=guarded(_checkpoint, trains, _not_checkpointed),
        opens=True,
    ),
    Change(
        id="use_reentrant=True",
        setting="use_reentrant",
        title="Reentrant checkpointing, which frees the inputs that LLM.int8 keeps",
        apply=guarded(_sets(use_reentrant=True), trains, _checkpointed, _hides_inputs),
    ),
)
PREPARE: Final = (
    Change(
        id="prepare_kbit=False",
        setting="prepare_kbit",
        title="Leave out prepare_model_for_kbit_training, which makes a float32 stream",
        apply=guarded(_sets(prepare_kbit=False), trains, adapts, _prepared, _upcast_is_not_needed),
        quality=Quality.SLIGHT,
        quality_reason="norms, embeddings and the residual stream stay in 16 bit, as TRL trains "
        "quantised models (sft_trainer.py)",
    ),
)
AUTOCAST: Final = (
    Change(
        id="bf16",
        setting="autocast",
        title="Autocast products to bfloat16",
        apply=guarded(
            _sets(bf16=True, fp16=False), trains, _native_bf16, _float32_without_autocast
        ),
        quality=Quality.SLIGHT,
        quality_reason="products in bfloat16, weights in float32: no loss in Kalamkar et al. 2019",
        opens=True,
    ),
    Change(
        id="fp16",
        setting="autocast",
        title="Autocast products to float16",
        apply=guarded(
            _sets(bf16=False, fp16=True), trains, _old_gpu, _float32_without_autocast,
            _fp16_scales, in_range,
        ),
        quality=Quality.SLIGHT,
        quality_reason="products in float16 with a scaled loss: no loss in Micikevicius et al. "
        "2018",
        opens=True,
    ),
    Change(
        id="fp16:native",
        setting="autocast",
        title="Autocast to float16 instead of bfloat16, which this GPU emulates",
        apply=guarded(
            _sets(bf16=False, fp16=True), trains, _emulated, _fp16_scales, in_range
        ),
        quality=Quality.SLIGHT,
        quality_reason="products in float16 with a scaled loss: no loss in Micikevicius et al. "
        "2018",
        opens=True,
    ),
)  # fmt: skip
LOSS: Final = (
    Change(
        id="use_liger_kernel",
        setting="use_liger_kernel",
        title="Use Liger's fused norm, MLP and loss (pip install liger-kernel)",
        apply=guarded(_sets(use_liger_kernel=True), trains, on_transformers, _liger),
        effort=Effort.INSTALL,
    ),
    Change(
        id="trainer=trl",
        setting="trainer",
        title="Train with TRL's SFTTrainer, whose loss never has all logits (pip install trl)",
        apply=guarded(_to_trl, trains, on_transformers, _whole_logits),
        effort=Effort.REWORK,
        opens=True,
    ),
)
OFFLOAD: Final = (
    Change(
        id="activation_offloading",
        setting="activation_offloading",
        title="Keep activations in pinned host memory until backward (TRL)",
        apply=guarded(_sets(offload_activations=True), trains, on_transformers, _offloads),
    ),
)
UNCHECKPOINTED: Final = (
    Change(
        id="gradient_checkpointing=False",
        setting="gradient_checkpointing",
        title="Keep all activations, compute nothing twice",
        apply=guarded(_sets(gradient_checkpointing=False), trains, _checkpointed),
        spends=True,
    ),
)
