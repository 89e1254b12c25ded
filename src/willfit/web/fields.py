"""The fields of the page's form: a row each, named as the command line and links name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["choice", "number", "decimal", "words", "text", "switch", "yes_no"]
Part = Literal["main", "inference", "training", "lora", "loading", "machine", "plan", "gpus"]
Choices = tuple[tuple[str, str], ...]

WORKS: Final = {
    "inference": "Run it",
    "load": "Only load it",
    "full": "Train all weights",
    "lora": "Train a LoRA",
    "qlora": "Train a QLoRA",
}
"""What may be done with a model, by its name in links."""
ANY: Final = frozenset(WORKS)
RUN: Final = frozenset({"inference"})
TRAIN: Final = frozenset({"full", "lora", "qlora"})
ADAPT: Final = frozenset({"lora", "qlora"})
TABS: Final = {
    "estimate": "Estimate",
    "plan": "Plan",
    "gpus": "GPUs",
    "compare": "Compare",
    "doctor": "Doctor",
}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One control."""

    name: str
    """The setting's flag without dashes, ``lora_r``; also its key in a link."""
    label: str
    hint: str
    """What people know it by: Hugging Face's name, or an example."""
    kind: Kind
    choices: Choices
    """(shown, value) of a choice; the first, with the value "", is the library's own default."""
    part: Part
    works: frozenset[str]
    """Work that it belongs to; with other work it is neither shown nor used."""


def _row(
    name: str,
    label: str,
    hint: str,
    kind: Kind | Choices,
    part: Part = "main",
    works: frozenset[str] = ANY,
) -> Field:
    """A row of the table; choices stand in the place of their kind."""
    choices = kind if isinstance(kind, tuple) else _YES_NO if kind == "yes_no" else ()
    return Field(
        name=name,
        label=label,
        hint=hint,
        kind="choice" if isinstance(kind, tuple) else kind,
        choices=choices,
        part=part,
        works=works,
    )


def _of(names: str) -> Choices:
    return (("default", ""), *((name, name) for name in names.split()))


_YES_NO: Final[Choices] = (("default", ""), ("yes", "yes"), ("no", "no"))
_QUANTIZE: Final[Choices] = (
    ("default", ""),
    ("8-bit, int8", "int8"),
    ("4-bit, nf4", "nf4"),
    ("4-bit, fp4", "fp4"),
    ("4-bit, nf4 double", "nf4-double"),
    ("4-bit, fp4 double", "fp4-double"),
)
_OPTIM: Final = _of(
    "adamw_torch_fused adamw_torch adamw_8bit paged_adamw_32bit paged_adamw_8bit adafactor sgd"
)
_STRATEGY: Final = _of("device_map dp ddp fsdp zero1 zero2 zero3 tp replicas")
_ATTN: Final = _of("eager sdpa flash_attention_2 flash_attention_3 flex_attention")
_FLOATS: Final = _of("float32 float16 bfloat16")
_GOAL: Final[Choices] = (("the smallest change", ""), ("the fastest way", "fastest"))

FIELDS: Final[tuple[Field, ...]] = (
    _row("quantize", "Quantize", "on loading, bitsandbytes", _QUANTIZE, "main", ANY - {"full"}),
    _row("batch_size", "Batch size", "sequences at a time", "number", "main", RUN),
    _row("context", "Context", "tokens: prompt + new", "number", "main", RUN),
    _row("per_device_train_batch_size", "Batch size", "per_device_train_batch_size", "number",
         "main", TRAIN),
    _row("max_length", "Sequence length", "max_length, in tokens", "number", "main", TRAIN),
    _row("gradient_checkpointing", "Gradient checkpointing", "gradient_checkpointing", "yes_no",
         "main", TRAIN),
    _row("optim", "Optimizer", "optim", _OPTIM, "main", TRAIN),
    _row("lora_r", "LoRA rank", "r", "number", "lora", ADAPT),
    _row("lora_target_modules", "Target modules", "target_modules: q_proj v_proj, or all-linear",
         "words", "lora", ADAPT),
    _row("lora_dropout", "LoRA dropout", "lora_dropout", "decimal", "lora", ADAPT),
    _row("modules_to_save", "Modules trained in full", "modules_to_save", "words", "lora", ADAPT),
    _row("max_new_tokens", "New tokens", "max_new_tokens", "number", "inference", RUN),
    _row("engine", "Engine", "what runs it", _of("transformers vllm llama.cpp"), "inference", RUN),
    _row("cache", "KV cache", "cache_implementation", _of("dynamic static quantized offloaded"),
         "inference", RUN),
    _row("kv_dtype", "KV cache type", "such as fp8, with vLLM", "text", "inference", RUN),
    _row("prefill_chunk_size", "Prefill chunk", "prefill_chunk_size, in tokens", "number",
         "inference", RUN),
    _row("padded", "The batch has padding", "", "switch", "inference", RUN),
    _row("full_logits", "Logits of every position", "model(**inputs), not generate()", "switch",
         "inference", RUN),
    _row("trainer", "Trainer", "whose defaults hold", _of("transformers trl loop"), "training",
         TRAIN),
    _row("gradient_accumulation_steps", "Accumulation steps", "gradient_accumulation_steps",
         "number", "training", TRAIN),
    _row("bf16", "Mixed precision bf16", "bf16", "yes_no", "training", TRAIN),
    _row("fp16", "Mixed precision fp16", "fp16", "yes_no", "training", TRAIN),
    _row("prepare_kbit", "Prepared for k-bit", "prepare_model_for_kbit_training", "yes_no",
         "training", ADAPT),
    _row("use_reentrant", "Reentrant checkpointing", "use_reentrant", "yes_no", "training", TRAIN),
    _row("max_grad_norm", "Gradient clipping", "max_grad_norm", "decimal", "training", TRAIN),
    _row("use_liger_kernel", "Liger kernels", "use_liger_kernel", "switch", "training", TRAIN),
    _row("packing", "Packing", "packing, TRL", "switch", "training", TRAIN),
    _row("activation_offloading", "Activations to host memory", "activation_offloading, TRL",
         "switch", "training", TRAIN),
    _row("dtype", "Load in", "dtype", _FLOATS, "loading"),
    _row("attn", "Attention", "attn_implementation", _ATTN, "loading", ANY - {"load"}),
    _row("num_labels", "Labels of a classification head", "num_labels", "number", "loading"),
    _row("bnb_4bit_compute_dtype", "Compute type of 4-bit", "bnb_4bit_compute_dtype", _FLOATS,
         "loading", ANY - {"full"}),
    _row("llm_int8_skip_modules", "Modules left as they are", "llm_int8_skip_modules", "words",
         "loading", ANY - {"full"}),
    _row("auto_class", "Auto class", "such as AutoModelForCausalLM", "text", "loading"),
    _row("max_memory", "Memory a device may use", 'max_memory: {0: "6GB", "cpu": "30GB"}', "text",
         "machine"),
    _row("strategy", "Several GPUs", "how they share the work", _STRATEGY, "machine"),
    _row("ram", "Host RAM", "such as 29GB", "text", "machine"),
    _row("reserve", "Keep free on each GPU", "such as 1GiB", "text", "machine"),
    _row("in_use", "Held by others on each GPU", "such as 500MiB", "text", "machine"),
    _row("alloc_conf", "Allocator", "such as expandable_segments:True", "text", "machine"),
    _row("stack", "Versions", "such as transformers=4.57,torch=2.6", "text", "machine"),
    _row("goal", "Look for", "", _GOAL, "plan"),
    _row("samples", "Rows of the data", "for the hours", "number", "plan"),
    _row("epochs", "Epochs", "num_train_epochs", "decimal", "plan"),
    _row("time_limit", "Time limit", "such as 9h", "text", "plan"),
    _row("gpu_names", "Only GPUs named", "parts of names: T4, RTX 4090", "text", "gpus"),
    _row("gpu_at_least", "With at least", "such as 24GB; a T4 has 15.6GB", "text", "gpus"),
    _row("gpu_at_most", "With at most", "such as 48GiB", "text", "gpus"),
    _row("gpu_count", "How many of a kind", "1 to 16", "number", "gpus"),
)  # fmt: skip
"""All fields but model, GPU and work, in the order in which they are shown."""

BY_NAME: Final = {field.name: field for field in FIELDS}
JOB: Final = frozenset(field.name for field in FIELDS if field.part == "plan")
FILTER: Final = frozenset(field.name for field in FIELDS if field.part == "gpus")
