"""Command lines that start a training or a server, wherever they stand; nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from willfit.errors import InputError
from willfit.scenario.stack import TESTED
from willfit.settings import llama_cpp, training_arguments, vllm
from willfit.settings.commands import options, words_of
from willfit.settings.settings import (
    Convert,
    Settings,
    convert_all,
    nothing,
    renamed,
    unused,
    whole,
)
from willfit.settings.strategies import fsdp, stage_named

MAX_CHARACTERS: Final = 16_384
"""Bound on one command line."""
_PIN: Final = re.compile(r"\b([a-z_]{3,20})\s?(?:==|~=)\s?(\d{1,4}(?:\.\d{1,4}){1,3})")


def pinned_versions(text: str) -> dict[str, str]:
    """Versions of ``pip install transformers==4.41.2``, of the libraries that matter."""
    found = _PIN.findall(text[:MAX_CHARACTERS])
    return {name: version for name, version in found if name in TESTED}


def read_command_line(text: str) -> Settings | None:
    """Settings of a command that starts a training or a server; None for another."""
    if len(text) > MAX_CHARACTERS or not any(mark in text for mark in _MARKS):
        return None
    try:
        words = words_of(text)
    except InputError:
        return None
    start = next((i for i, word in enumerate(words) if _program(word) in _PROGRAMS), None)
    if start is None:
        return None
    words = words[start:]
    return _engine(words) or _training(words)


_MARKS: Final = ("python", "torchrun", "accelerate", "deepspeed", "vllm", "llama", "axolotl")
_PROGRAMS: Final = (
    "python", "python3", "torchrun", "accelerate", "deepspeed", "vllm", "llamafactory-cli",
    *llama_cpp.PROGRAMS,
)  # fmt: skip


def _program(word: str) -> str:
    return re.sub(r"^python3\.\d+$", "python3", PurePosixPath(word).name)


def _engine(words: Sequence[str]) -> Settings | None:
    command = shlex.join([_program(words[0]), *words[1:]])
    for recognise, read in ((vllm.recognise, vllm.read), (llama_cpp.recognise, llama_cpp.read)):
        if recognise(command):
            try:
                return read(command)
            except InputError as error:
                return Settings(ignored=(str(error),))
    return None


def _training(words: Sequence[str]) -> Settings | None:
    """``python train.py --model_name_or_path … --per_device_train_batch_size 4``."""
    _, given = options(words[1:], short={}, switches=())
    factory = "llamafactory-cli" in words[0] or "finetuning_type" in given or "cutoff_len" in given
    table = {**TABLE, **LLAMA_FACTORY} if factory else TABLE
    known = {name: _value(value) for name, value in given.items() if name in table}
    if not known.keys() & MARKS:
        return None
    return settings_of(known, table, of=f"the command line of {_program(words[0])}")


def settings_of(
    given: Mapping[str, Any], table: Mapping[str, Convert] | None = None, *, of: str = "the log"
) -> Settings:
    """Settings of a trainer by its own names; what is in no table is left out without a word."""
    table = table or TABLE
    known = {name: value for name, value in given.items() if name in table}
    flags, ignored = _converted(known, table)
    model = flags.pop("model", None)
    trl = bool(known.keys() & _TRL)
    if trl:
        flags["trainer"] = "trl"
    flags["train"] = _method(flags, known)
    if not flags.get("gradient_checkpointing") and not trl:
        flags.pop("use_reentrant", None)
    return Settings(
        flags=flags,
        model=model if isinstance(model, str) else None,
        ignored=ignored,
        assumptions=(f"settings of {of} ({flags['train']})",),
    )


MARKS: Final = frozenset(
    {"model_name_or_path", "model_id", "base_model", "per_device_train_batch_size",
     "gradient_checkpointing", "gradient_accumulation_steps"}
)  # fmt: skip
_TRL: Final = frozenset(
    {"use_peft", "packing", "load_in_4bit", "dataset_text_field", "max_seq_length"}
)


def _value(value: Any) -> Any:
    """Words of a command line as what they mean: ``True``, ``None``."""
    words = {"true": True, "false": False, "none": None}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _converted(
    given: Mapping[str, Any], table: Mapping[str, Convert]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Flags, and what was refused, one setting at a time."""
    flags: dict[str, Any] = {}
    left: list[str] = []
    for name, value in given.items():
        try:
            found, unusable = convert_all({name: value}, table, ())
        except InputError as error:
            left.append(str(error))
            continue
        flags |= found
        left += unusable
    return flags, tuple(left)


def _method(flags: dict[str, Any], given: Mapping[str, Any]) -> str:
    kind = given.get("finetuning_type")
    adapted = bool(given.get("use_peft") or given.get("use_lora")) or "lora_r" in flags
    adapted = adapted or kind == "lora" or (bool(flags.get("quantize")) and kind is None)
    if flags.get("quantize") and not adapted:
        flags.pop("quantize")
    if not adapted:
        for name in ("lora_r", "lora_dropout", "lora_target_modules", "modules_to_save"):
            flags.pop(name, None)
        return "full"
    return "qlora" if str(flags.get("quantize", "")).startswith(("nf4", "fp4")) else "lora"


TABLE: Final[dict[str, Convert]] = {
    **training_arguments.TABLE,
    "deepspeed": stage_named,
    "fsdp": fsdp,
    "model": renamed("model"),
    "model_max_length": whole("max_length"),
    "max_source_length": whole("max_length"),
    "block_size": whole("max_length"),
    "use_lora": nothing,
    "lora_rank": whole("lora_r"),
    "auto_find_batch_size": unused("it halves the batch until a step fits: the first is counted"),
}
"""Options of training scripts that decide memory."""


def _bits(value: Any) -> dict[str, Any]:
    return {"4": {"quantize": "nf4"}, "8": {"quantize": "int8"}}.get(str(value), {})


def _targets(value: Any) -> dict[str, Any]:
    names = str(value).replace(",", " ").split()
    return {"lora_target_modules": ["all-linear"] if names == ["all"] else names}


LLAMA_FACTORY: Final[dict[str, Convert]] = {
    "cutoff_len": whole("max_length"),
    "quantization_bit": _bits,
    "lora_target": _targets,
    "flash_attn": lambda value: {"attn": "flash_attention_2"} if value == "fa2" else {},
    "finetuning_type": nothing,
    "enable_liger_kernel": lambda value: {"use_liger_kernel": True} if value else {},
    "disable_gradient_checkpointing": lambda value: {"gradient_checkpointing": not value},
}
"""LLaMA-Factory's own names (src/llamafactory/hparams)."""
