"""The settings that estimate, plan and their kin share, named as Hugging Face names them.

Every default is None: "not given" must stay visible until settings of ``--from`` are merged in.
"""

from __future__ import annotations

import argparse
from typing import Final

from willfit.cli.parser import Parser, fraction, positive_float, positive_int

QUANTIZE: Final = ("int8", "nf4", "fp4", "nf4-double", "fp4-double")

INFERENCE_ONLY: Final = (
    "context", "max_new_tokens", "kv_dtype", "cache", "engine", "full_logits",
    "prefill_chunk_size", "adapter", "merge_adapter",
)  # fmt: skip
"""Settings that make no sense with ``--train``."""

TRAINING_ONLY: Final = (
    "trainer", "peft_config", "lora_r", "lora_dropout", "lora_target_modules", "modules_to_save",
    "prepare_kbit", "optim", "per_device_train_batch_size", "gradient_accumulation_steps",
    "max_length", "lengths", "tokenizer", "text_column", "packing", "gradient_checkpointing",
    "use_reentrant", "bf16", "fp16", "max_grad_norm", "use_liger_kernel", "activation_offloading",
    "freeze", "group_by_length",
)  # fmt: skip
"""Settings that make no sense without ``--train``."""


def add_scenario_options(parser: Parser, *, model_flag: bool = False) -> None:
    """Add model, loading, inference, training and machine settings to a command.

    ``model_flag``: the model is ``--model`` instead of the command's first word.
    """
    names = "catalogue name or alias, Hub id, folder, config.json, .safetensors, .gguf, timm/NAME"
    if model_flag:
        parser.add_argument("--model", metavar="MODEL", help=names)
    else:
        parser.add_argument("model", nargs="?", metavar="MODEL", help=names)
    parser.add_argument("--gpu", metavar="NAME[xN]", help="T4, T4x2, 'RTX 4090', 24GiB:sm_86")
    parser.add_argument(
        "--from",
        dest="from_",
        metavar="FILE",
        help="settings of a TrainingArguments, TRL, PEFT or Axolotl file, "
        'or of a "vllm serve …" or "llama-server …" command',
    )
    _table(parser.add_argument_group("table"))
    _loading(parser.add_argument_group("loading"))
    _inference(parser.add_argument_group("inference"))
    _training(parser.add_argument_group("training"))
    _machine(parser.add_argument_group("machine"))


def _table(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--dtypes", nargs="+", metavar="D", help="rows of the table")
    group.add_argument("--auto-class", metavar="CLASS", help="AutoModel, AutoModelForCausalLM, …")
    group.add_argument("--library-name", choices=("transformers", "timm"))


def _loading(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--task", choices=("load",), help="loading only")
    group.add_argument("--dtype", metavar="D", help="type to load in (default: the library's)")
    group.add_argument("--quantize", choices=QUANTIZE)
    group.add_argument("--bnb-4bit-compute-dtype", metavar="D")
    group.add_argument("--llm-int8-skip-modules", nargs="+", metavar="NAME")
    group.add_argument("--max-memory", metavar="MAP", help='\'{0: "600MB", 1: "1GB"}\'')
    group.add_argument("--num-labels", type=positive_int, metavar="N")
    group.add_argument("--trust-remote-code", action="store_true", default=None)
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")


def _inference(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch-size", type=positive_int, metavar="N")
    group.add_argument("--context", type=positive_int, metavar="N", help="prompt + new tokens")
    group.add_argument("--max-new-tokens", type=positive_int, metavar="N")
    group.add_argument("--padded", action="store_true", default=None, help="batch has padding")
    group.add_argument("--full-logits", action="store_true", default=None, help="model(**inputs)")
    group.add_argument("--kv-dtype", metavar="D")
    group.add_argument("--cache", choices=("dynamic", "static", "quantized", "offloaded"))
    group.add_argument("--attn", metavar="NAME", help="eager, sdpa, flash_attention_2, …")
    group.add_argument(
        "--sdpa-kernel",
        choices=("flash", "efficient", "cudnn", "math"),
        help="the only one that torch.nn.attention.sdpa_kernel allows",
    )
    group.add_argument("--prefill-chunk-size", type=positive_int, metavar="N")
    group.add_argument("--adapter", metavar="FILE", help="adapter_config.json of a LoRA to run")
    group.add_argument("--merge-adapter", action="store_true", default=None)
    group.add_argument("--engine", choices=("transformers", "vllm", "llama.cpp"))


def _training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--train", choices=("full", "lora", "qlora"))
    group.add_argument("--trainer", choices=("transformers", "trl", "loop"))
    group.add_argument("--peft-config", metavar="FILE", help="adapter_config.json")
    group.add_argument("--lora-r", type=positive_int, metavar="N")
    group.add_argument("--lora-dropout", type=fraction, metavar="X")
    group.add_argument("--lora-target-modules", nargs="+", metavar="NAME")
    group.add_argument("--modules-to-save", nargs="+", metavar="NAME")
    group.add_argument("--prepare-kbit", action=argparse.BooleanOptionalAction, default=None)
    group.add_argument("--optim", metavar="NAME")
    group.add_argument("--per-device-train-batch-size", type=positive_int, metavar="N")
    group.add_argument("--gradient-accumulation-steps", type=positive_int, metavar="N")
    group.add_argument("--max-length", type=positive_int, metavar="N")
    group.add_argument(
        "--lengths",
        metavar="FILE",
        help="the data: .parquet, .csv, .jsonl, .json of texts or token counts; .txt of counts",
    )
    group.add_argument("--tokenizer", metavar="NAME", help="counts its tokens: folder or Hub id")
    group.add_argument("--text-column", nargs="+", metavar="NAME", help="columns of its texts")
    group.add_argument("--packing", action="store_true", default=None)
    group.add_argument(
        "--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=None
    )
    group.add_argument("--use-reentrant", action=argparse.BooleanOptionalAction, default=None)
    group.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None)
    group.add_argument("--fp16", action=argparse.BooleanOptionalAction, default=None)
    group.add_argument("--max-grad-norm", type=positive_float, metavar="X")
    group.add_argument("--use-liger-kernel", action="store_true", default=None)
    group.add_argument("--activation-offloading", action="store_true", default=None)
    group.add_argument("--freeze", nargs="+", metavar="NAME", help="modules left as they are")
    group.add_argument("--group-by-length", action="store_true", default=None)


def _machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--strategy",
        choices=("device_map", "dp", "ddp", "fsdp", "zero1", "zero2", "zero3", "tp", "replicas"),
    )
    group.add_argument("--ram", metavar="N", help="host RAM that may be used, such as 29GB")
    group.add_argument("--disk", metavar="N")
    group.add_argument("--reserve", metavar="N", help="memory to keep free on every GPU")
    group.add_argument("--in-use", metavar="N", help="memory that others hold on every GPU")
    group.add_argument("--live", action="store_true", default=None, help="read it from this GPU")
    group.add_argument("--alloc-conf", metavar="CONF", help="expandable_segments:True")
    group.add_argument("--stack", metavar="VERSIONS", help="transformers=4.57,torch=2.6")
