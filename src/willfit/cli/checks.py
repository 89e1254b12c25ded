"""What contradicts itself in the settings, and values that mean nothing where they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from willfit.allocator.config import parse_alloc_conf
from willfit.cli.options import INFERENCE_ONLY, TRAINING_ONLY
from willfit.cli.values import engine_of
from willfit.dtypes import parse_dtype
from willfit.errors import InputError
from willfit.scenario import Machine, ModelSpec
from willfit.units import format_bytes

COMPUTED: Final = ("float32", "float16", "bfloat16", "float64")
"""Types that `from_pretrained` loads unquantised weights in and that products are computed in."""


def refuse_contradictions(options: Mapping[str, Any]) -> None:
    """Settings that exclude each other, or belong to other work; raises `InputError`."""
    train = options.get("train")
    wrong = INFERENCE_ONLY if train else TRAINING_ONLY
    for name in wrong:
        if options.get(name) is not None:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag} is an inference setting and contradicts --train {train}: leave one out"
                if train
                else f"{flag} is a training setting: add --train full, lora or qlora"
            )
    quantize = str(options.get("quantize") or "")
    contradictions = {
        "--task load contradicts --train": options.get("task") and train,
        "--bf16 contradicts --fp16": options.get("bf16") and options.get("fp16"),
        f"--train full cannot train {quantize} weights, use --train lora or qlora": train == "full"
        and quantize,
        "--train qlora means 4-bit weights, for int8 use --train lora --quantize int8": train
        == "qlora"
        and quantize == "int8",
        "--packing contradicts --padded": options.get("packing") and options.get("padded"),
        "--lengths contradicts --max-length only in packing": options.get("lengths")
        and options.get("packing"),
        "--tokenizer and --text-column are about the file of --lengths": (
            options.get("tokenizer") or options.get("text_column")
        )
        and not options.get("lengths"),
        "--in-use contradicts --live": options.get("in_use") and options.get("live"),
        "--batch-size contradicts --per-device-train-batch-size": options.get("batch_size")
        and options.get("per_device_train_batch_size"),
        "--use-reentrant needs --gradient-checkpointing": options.get("use_reentrant")
        and not options.get("gradient_checkpointing")
        and options.get("trainer") != "trl",
        "--padded says nothing of --task load": options.get("padded")
        and options.get("task") == "load",
        f"--cache is transformers' and contradicts --engine {options.get('engine')}": options.get(
            "cache"
        )
        and options.get("engine") not in (None, "transformers"),
        f"--freeze is for --train full, {train} leaves every weight as it is": options.get("freeze")
        and train != "full",
        "--activation-offloading is TRL's, add --trainer trl": options.get("activation_offloading")
        and options.get("trainer") != "trl",
        "--group-by-length contradicts --packing": options.get("group_by_length")
        and options.get("packing"),
        "--merge-adapter needs --adapter": options.get("merge_adapter")
        and not options.get("adapter"),
        "--prefill-chunk-size is of generate and contradicts --full-logits": options.get(
            "prefill_chunk_size"
        )
        and options.get("full_logits"),
        **{
            f"--{name.replace('_', '-')} is transformers' and contradicts --engine "
            f"{options.get('engine')}": options.get(name)
            and options.get("engine") not in (None, "transformers")
            for name in ("prefill_chunk_size", "sdpa_kernel", "adapter")
        },
        "--bnb-4bit-compute-dtype needs --quantize nf4 or fp4": options.get(
            "bnb_4bit_compute_dtype"
        )
        and not quantize
        and train != "qlora",
        "--llm-int8-skip-modules needs --quantize": options.get("llm_int8_skip_modules")
        and not quantize
        and train != "qlora",
    }
    for sentence, present in contradictions.items():
        if present:
            raise InputError(f"contradictory settings: {sentence}")
    lora_flags = ("lora_r", "lora_dropout", "lora_target_modules", "modules_to_save")
    if train == "full" and any(options.get(name) is not None for name in lora_flags):
        raise InputError("LoRA settings contradict --train full: use --train lora or --train qlora")


def refuse_values(options: Mapping[str, Any], model: ModelSpec, machine: Machine | None) -> None:
    """Values that nothing could be done with; raises `InputError` saying what would do."""
    parse_alloc_conf(options.get("alloc_conf") or "")
    for name in ("dtype", "bnb_4bit_compute_dtype"):
        given = options.get(name)
        found = parse_dtype(given) if given is not None else None
        if found is None or (name == "dtype" and not found.is_floating):
            continue  # absent, or refused with a word on --quantize
        what = f"--{name.replace('_', '-')} {given}"
        _require(what, found.name in COMPUTED, f"use one of {', '.join(COMPUTED[:3])}")
    _refuse_cache_type(options, model)
    new, context = options.get("max_new_tokens"), options.get("context")
    longest = model.architecture.max_context if model.architecture is not None else None
    if new is not None and context is None and longest is not None:
        _require(
            f"--max-new-tokens {new}", new <= longest,
            f"{model.id} has room for {longest} tokens in all: give fewer, or --context",
        )  # fmt: skip
    if machine is not None:
        for index, gpu in enumerate(machine.gpus):
            _require(
                f"{format_bytes(gpu.capacity_bytes - machine.budget_bytes(index))} kept free or in "
                f"use on GPU {index}",
                machine.budget_bytes(index) > 0,
                f"it has {format_bytes(gpu.usable_bytes)}: give less",
            )
    _refuse_names("llm_int8_skip_modules", options.get("llm_int8_skip_modules"), model)
    _refuse_names("modules_to_save", options.get("modules_to_save"), model)
    _refuse_names("freeze", options.get("freeze"), model)


def _refuse_cache_type(options: Mapping[str, Any], model: ModelSpec) -> None:
    given = options.get("kv_dtype")
    engine = engine_of(options, model)
    if given is None:
        return
    found = parse_dtype(given)
    whole = found.block_size == 1 and not found.is_floating and found.name != "int8"
    _require(f"--kv-dtype {given}", not whole, "a cache holds float16, bfloat16, fp8, int8 or q8_0")
    if engine != "transformers" or options.get("cache") == "quantized":
        return
    _require(
        f"--kv-dtype {given}", found.name in COMPUTED,
        "transformers' cache holds what the model computes: add --engine vllm or llama.cpp, or "
        "--cache quantized",
    )  # fmt: skip


def _refuse_names(flag: str, names: Iterable[str] | str | None, model: ModelSpec) -> None:
    """Names of modules that the model lacks (patterns are left to the library)."""
    parts = {part for row in model.tensors for part in row.owner.split(".")}
    for name in [names] if isinstance(names, str) else names or ():
        plain = name.replace(".", "").replace("_", "").isalnum()
        _require(
            f"--{flag.replace('_', '-')} {name[:60]}",
            not plain or name.rpartition(".")[2] in parts or name in parts,
            f"{model.id} has no such module",
        )


def _require(what: str, holds: bool, instead: str) -> None:
    if not holds:
        raise InputError(f"{what} cannot be: {instead}")
