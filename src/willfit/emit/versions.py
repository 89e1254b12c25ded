"""Since which release a library has what a plan asks of it."""

from __future__ import annotations

from typing import Final

from willfit.errors import InputError
from willfit.scenario import Stack

DTYPE_SINCE: Final = "4.56"
"""transformers release that renamed ``torch_dtype`` to ``dtype`` (modeling_utils.py)."""
EVAL_STRATEGY_SINCE: Final = "4.41"
"""transformers release that renamed ``evaluation_strategy`` to ``eval_strategy``."""
SAMPLING_STRATEGY_SINCE: Final = "5.2"
"""transformers release that renamed ``group_by_length`` (training_args.py)."""
PROCESSING_CLASS_SINCE: Final = "4.46"
"""transformers release whose Trainer takes ``processing_class`` instead of ``tokenizer``."""
SFT_PROCESSING_CLASS_SINCE: Final = "0.12"
"""TRL release whose SFTTrainer takes ``processing_class`` instead of ``tokenizer``."""
MAX_LENGTH_SINCE: Final = "0.16"
"""TRL release that renamed ``max_seq_length`` to ``max_length`` (sft_config.py)."""
ALLOC_CONF_SINCE: Final = "2.9"
"""torch release that reads ``PYTORCH_ALLOC_CONF`` (before: ``PYTORCH_CUDA_ALLOC_CONF``)."""

SINCE: Final[dict[str, tuple[str, str]]] = {
    "attn_implementation": ("transformers", "4.36"),
    "flex_attention": ("transformers", "4.48"),
    "flash_attention_3": ("transformers", "4.55"),
    "flash_attention_4": ("transformers", "5.5"),
    "tp_plan": ("transformers", "4.50"),
    "gradient_checkpointing_kwargs": ("transformers", "4.35"),
    "use_liger_kernel": ("transformers", "4.45"),
    "cache_implementation static": ("transformers", "4.40"),
    "cache_implementation quantized": ("transformers", "4.42"),
    "cache_implementation offloaded": ("transformers", "4.46"),
    "cache_config backend fp8": ("transformers", "5.23"),
    "prefill_chunk_size": ("transformers", "4.51"),
    "SFTConfig": ("trl", "0.9"),
    "activation_offloading": ("trl", "0.18"),
    "use_dora": ("peft", "0.9"),
    "all-linear": ("peft", "0.8"),
    "sdpa_kernel": ("torch", "2.3"),
    "sdpa_kernel cudnn": ("torch", "2.5"),
}
"""First release with a setting: the first of those read that has it, so at most a few too late. An
earlier one is refused rather than given a keyword that it ignores."""

OPTIMIZERS_SINCE: Final[dict[str, str]] = {
    **dict.fromkeys(("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"), "4.38"),
    **dict.fromkeys(("galore_adamw", "galore_adafactor", "galore_adamw_layerwise"), "4.39"),
    **dict.fromkeys(("lomo", "adalomo"), "4.41"),
    **dict.fromkeys(
        ("ademamix", "ademamix_8bit", "paged_ademamix_8bit", "paged_ademamix_32bit", "grokadamw",
         "schedule_free_adamw", "schedule_free_sgd", "adamw_torch_4bit"), "4.46"),
    **dict.fromkeys(
        ("adamw_torch_8bit", "apollo_adamw", "apollo_adamw_layerwise", "schedule_free_radam"),
        "4.50"),
    "stable_adamw": "4.55",
}  # fmt: skip
"""transformers release whose ``OptimizerNames`` has the name; the others are older than 4.34."""
OPTIMIZERS_UNTIL: Final[dict[str, str]] = {"adamw_hf": "4.50"}
"""transformers release that dropped the name."""


def require(stack: Stack, feature: str) -> None:
    """Nothing where the stack has it; else `InputError` with both releases."""
    library, since = SINCE[feature]
    if not stack.at_least(library, since):
        raise InputError(
            f"{feature} came with {library} {since} and the stack has {stack.versions[library]}: "
            f"upgrade {library}, or choose a plan without it"
        )


def require_optimizer(stack: Stack, name: str) -> None:
    """Nothing where the stack's Trainer makes this optimizer; else `InputError`."""
    since, until = OPTIMIZERS_SINCE.get(name), OPTIMIZERS_UNTIL.get(name)
    have = stack.versions["transformers"]
    if since is not None and not stack.at_least("transformers", since):
        raise InputError(f"optim {name} came with transformers {since} and the stack has {have}")
    if until is not None and stack.at_least("transformers", until):
        raise InputError(f"optim {name} went with transformers {until} and the stack has {have}")
