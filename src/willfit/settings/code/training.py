"""How a script trains its model: a trainer with its arguments, or a loop of its own."""

from __future__ import annotations

from typing import Any, Final

from willfit.settings import training_arguments
from willfit.settings.code.adapters import read_adapter, read_checkpointing
from willfit.settings.code.around import around, first
from willfit.settings.code.gathered import Gathered
from willfit.settings.code.loops import optimizer_of, read_loop
from willfit.settings.code.optimizers import OPTIMIZERS
from willfit.settings.code.reading import Load, Reading
from willfit.settings.code.tokens import longest, padded
from willfit.settings.code.values import Made, Site
from willfit.settings.settings import Convert, switch, unused, whole
from willfit.settings.strategies import stage_named


def read_training(reading: Reading, load: Load, gathered: Gathered) -> None:
    """Flags of the training that the script does with the model."""
    flags = gathered.flags
    for name in ("batch_size", "max_new_tokens", "use_cache"):
        flags.pop(name, None)
    trainer = first(around(reading, load, "trainer"))
    if trainer is not None and trainer.site is not None:
        _trainer(trainer.site, gathered)
    else:
        read_loop(reading, load, gathered)
    read_adapter(reading, load, gathered)
    read_checkpointing(reading, load, gathered)
    if "max_length" not in flags:
        gathered.default("max_length", longest(reading, load))
    if padded(reading, load, flags.get("per_device_train_batch_size")) and not flags.get("packing"):
        flags["padded"] = True
    if around(reading, load, "frozen") and flags["train"] == "full":
        gathered.assume("parameters that the code freezes are counted as trained")
    if not flags.get("gradient_checkpointing") and flags.get("trainer") != "trl":
        flags.pop("use_reentrant", None)


def _trainer(site: Site, gathered: Gathered) -> None:
    args = site.value("args")
    arguments = args.site if isinstance(args, Made) else None
    trl = site.last in TRL or (arguments is not None and arguments.last in TRL_CONFIGS)
    classifies = gathered.flags.get("auto_class") is not None
    if trl and not classifies:
        gathered.flags["trainer"] = "trl"
    if site.last in PAIRS:
        gathered.assume(f"{site.last}: its pairs and its reference model are not counted")
    if arguments is not None:
        gathered.convert(arguments.given, ARGUMENTS, HARMLESS, of=arguments.last,
                         unread=arguments.unread)  # fmt: skip
        if trl and arguments.last.endswith("TrainingArguments"):
            for name in ("gradient_checkpointing", "bf16", "fp16"):
                gathered.flags.setdefault(name, False)  # the Trainer's defaults, not TRL's
    elif args is not None:
        gathered.assume(f"args of {site.last} are not in the text: the trainer's defaults")
    gathered.convert(site.given, TRAINER, (*HARMLESS, *_PARTS), of=site.last)
    optimizers = site.value("optimizers")
    made = optimizers[0] if isinstance(optimizers, (tuple, list)) and optimizers else None
    if isinstance(made, Made) and made.site.last in OPTIMIZERS:
        gathered.flags["optim"] = optimizer_of(made.site)
    if gathered.flags.get("bf16") and gathered.flags.get("fp16"):
        gathered.flags.pop("fp16")
        gathered.ignore("bf16 and fp16 are both on, which the Trainer refuses: bf16 is counted")


TRL: Final = ("SFTTrainer", "DPOTrainer", "ORPOTrainer", "KTOTrainer", "CPOTrainer", "GRPOTrainer",
              "PPOTrainer", "UnslothTrainer")  # fmt: skip
PAIRS: Final = TRL[1:-1]
TRL_CONFIGS: Final = ("SFTConfig", "DPOConfig", "ORPOConfig", "KTOConfig", "CPOConfig",
                      "GRPOConfig", "PPOConfig")  # fmt: skip
_PARTS: Final = (
    "model", "args", "train_dataset", "eval_dataset", "tokenizer", "processing_class",
    "data_collator", "compute_metrics", "callbacks", "peft_config", "optimizers", "formatting_func",
    "dataset_text_field", "preprocess_logits_for_metrics", "model_init", "dataset_num_proc",
    "dataset_kwargs", "ref_model", "beta", "model_init_kwargs", "reward_funcs", "compute_loss_func",
)  # fmt: skip


def _stage(value: Any) -> Any:
    return stage_named(value)


ARGUMENTS: Final[dict[str, Convert]] = {
    **training_arguments.TABLE,
    "deepspeed": _stage,
    "max_prompt_length": unused("the whole length counts"),
    "auto_find_batch_size": unused("it halves the batch until a step fits: the first is counted"),
    "torch_empty_cache_steps": unused("what is cached is not in use"),
    "optim_target_modules": unused("of the optimizer's projection"),
    "neftune_noise_alpha": unused("noise of the embeddings' size"),
}
"""Arguments of trainers that decide memory."""
TRAINER: Final[dict[str, Convert]] = {
    "max_seq_length": whole("max_length"),
    "packing": switch("packing"),
}
"""What SFTTrainer itself took before SFTConfig was there."""
HARMLESS: Final = (
    *training_arguments.HARMLESS, "per_device_eval_batch_size", "eval_accumulation_steps",
    "fp16_full_eval", "bf16_full_eval", "metric_for_best_model", "greater_is_better",
    "label_smoothing_factor", "save_safetensors", "logging_first_step", "dataloader_pin_memory",
    "dataloader_drop_last", "dataset_num_proc", "dataset_kwargs", "lr_scheduler_kwargs",
    "label_names", "prediction_loss_only", "disable_tqdm", "hub_token", "hub_private_repo",
    "optim_args", "remove_unused_columns", "include_inputs_for_metrics", "no_cuda", "use_cpu",
    "log_on_each_node", "local_rank", "ddp_backend", "ddp_timeout", "data_seed", "full_determinism",
    "model_init_kwargs", "predict_with_generate", "generation_max_length", "save_only_model",
    "dataloader_prefetch_factor", "length_column_name", "skip_memory_metrics", "torch_compile",
    "auto_find_batch_size_", "eval_packing", "assistant_only_loss", "completion_only_loss",
    "include_tokens_per_second", "include_num_input_tokens_seen", "eval_delay", "jit_mode_eval",
    "batch_eval_metrics", "eval_on_start", "restore_callback_states_from_checkpoint",
)  # fmt: skip
"""Arguments that the memory of a training step does not depend on."""
