"""Training without a known scenario: the planner's settings, in the order of what they cost."""

from __future__ import annotations

from typing import Final

from willfit.doctor.advice.hints.hint import Hint
from willfit.doctor.report import Stage

_ACTIVATIONS: Final = frozenset({"activations_batch_seq"})
_STEPS: Final[frozenset[Stage]] = frozenset(
    {"train-forward", "train-backward", "optimizer-step", "unknown"}
)

HINTS: Final = (
    Hint(
        causes=frozenset({"logits_vocab"}),
        id="use_liger_kernel",
        title="Use a fused loss: the logits of all positions are then never whole",
        snippet="TrainingArguments(..., use_liger_kernel=True)",
        not_families=("vllm", "mps"),
    ),
    Hint(
        causes=frozenset({"attention_quadratic"}),
        id="attn=sdpa",
        title="Use an attention that does not write its scores down",
        snippet='from_pretrained(..., attn_implementation="sdpa")',
        not_families=("tensorflow", "jax", "cpu"),
    ),
    Hint(
        causes=_ACTIVATIONS,
        id="per_device_train_batch_size=1",
        title="One row at a time, accumulating as many a step as before",
        snippet="per_device_train_batch_size=1, gradient_accumulation_steps=8",
        stages=_STEPS,
        not_families=("vllm", "tensorrt-llm", "tgi"),
    ),
    Hint(
        causes=_ACTIVATIONS | {"reference_model"},
        id="gradient_checkpointing",
        title="Compute each layer's activations again in backward, unless that is already on",
        snippet="TrainingArguments(..., gradient_checkpointing=True)",
        stages=frozenset({"train-forward", "train-backward"}),
    ),
    Hint(
        causes=_ACTIVATIONS | {"logits_vocab", "attention_quadratic"},
        id="max_length",
        title="Shorter rows: cut the longest",
        snippet="max_length=1024   # of the tokenizer and of the trainer",
        stages=_STEPS,
        quality="real",
        not_families=("vllm", "tensorrt-llm", "tgi"),
    ),
    Hint(
        causes=frozenset({"optimizer_states", "resume_spike"}),
        id="optim=paged_adamw_8bit",
        title="Optimizer states in 8 bit, paged to the host where the GPU is full",
        snippet='TrainingArguments(..., optim="paged_adamw_8bit")',
        quality="slight",
    ),
    Hint(
        causes=frozenset({"optimizer_states"}),
        id="optim=adamw_torch_fused",
        title="The fused step: no temporary list as large as the states",
        snippet='TrainingArguments(..., optim="adamw_torch_fused")',
    ),
    Hint(
        causes=frozenset({"eval_accumulation"}),
        id="drop_eval_logits",
        title="Keep predictions instead of logits in evaluation",
        snippet=(
            "Trainer(..., preprocess_logits_for_metrics=lambda logits, labels: "
            "logits.argmax(dim=-1))"
        ),
        stages=frozenset({"eval", "unknown"}),
    ),
    Hint(
        causes=frozenset({"save_gather", "merge_spike"}),
        id="save_sharded",
        title="Save shards, or gather on the host and on one rank",
        snippet="fsdp_state_dict_type: SHARDED_STATE_DICT   # merge on the CPU afterwards",
    ),
    Hint(
        causes=frozenset({"reference_model"}),
        id="no_reference_copy",
        title="No second copy as reference: an adapter is its own, switched off",
        snippet="DPOTrainer(model, ref_model=None, peft_config=...)",
    ),
)
