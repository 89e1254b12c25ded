"""Lines that trainers and engines print of themselves: one pattern a line, in one table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from willfit.settings.told.facts import Facts

_Fact = Callable[[Facts, re.Match[str]], None]


def _number(text: str) -> int:
    return int(text.replace(",", "").replace("_", "")[:12])


def _count(flag: str) -> _Fact:
    def tell(facts: Facts, match: re.Match[str]) -> None:
        if _number(match[1]) > 0:
            facts.flags[flag] = _number(match[1])

    return tell


def _model(*, certain: bool = True) -> _Fact:
    def tell(facts: Facts, match: re.Match[str]) -> None:
        facts.name_model(match[1].strip("'\"` .,"), certain=certain)

    return tell


def _cached(facts: Facts, match: re.Match[str]) -> None:
    """A folder of the Hub's cache: ``models--meta-llama--Llama-2-7b-hf``."""
    facts.name_model(match[1].replace("--", "/", 1), certain=False)


def _trainable(facts: Facts, match: re.Match[str]) -> None:
    facts.trainable = (_number(match[1]), _number(match[2]))


def _zero(facts: Facts, match: re.Match[str]) -> None:
    facts.flags["strategy"] = f"zero{match[1]}"


def _unsloth(facts: Facts, _match: re.Match[str]) -> None:
    facts.flags["trainer"] = "trl"
    facts.assume("unsloth's own kernels are not counted: memory as with TRL")


def _gpus(facts: Facts, match: re.Match[str]) -> None:
    facts.gpu_count = _number(match[1])


def _evaluates(facts: Facts, _match: re.Match[str]) -> None:
    facts.assume("an evaluation runs between the steps of the training, and is not counted")


def _examples(facts: Facts, match: re.Match[str]) -> None:
    facts.assume(f"trained on {match[1]} examples, whose lengths the log does not tell")


def _engine(facts: Facts, match: re.Match[str]) -> None:
    """The first line of vLLM: ``LLM engine (v0.6.3) with config: model='…', … dtype=…``."""
    facts.flags["engine"] = "vllm"
    values = dict(_PAIRS.findall(match.string[match.start() : match.start() + 4000]))
    if "model" in values:
        facts.name_model(values["model"])
    dtype = values.get("dtype", "").removeprefix("torch.")
    if dtype in ("float16", "bfloat16", "float32"):
        facts.flags["dtype"] = dtype
    if values.get("max_seq_len", "").isdecimal():
        facts.flags["context"] = int(values["max_seq_len"][:9])
    if values.get("tensor_parallel_size", "1") not in ("1", ""):
        facts.flags["strategy"] = "tp"


_PAIRS: Final = re.compile(
    r"\b(model|dtype|max_seq_len|tensor_parallel_size)=['\"]?([\w./:-]{1,200})"
)


def _context(facts: Facts, match: re.Match[str]) -> None:
    facts.flags["engine"] = "llama.cpp"
    facts.flags["context"] = _number(match[1])


def _gguf(facts: Facts, match: re.Match[str]) -> None:
    facts.flags["engine"] = "llama.cpp"
    facts.name_model(match[1])


def _family(facts: Facts, match: re.Match[str]) -> None:
    if match[1] not in (*facts.families, *_NO_FAMILY) and len(facts.families) < 8:
        facts.families.append(match[1])


_NO_FAMILY: Final = (
    "utils",
    "outputs",
    "attn_mask_utils",
    "rope_utils",
    "layers",
    "flash_attention_utils",
)

_BATCH: Final = _count("per_device_train_batch_size")
_STEPS: Final = _count("gradient_accumulation_steps")
_N: Final = r"(\d{1,3}(?:,\d{3}){0,4}|\d{1,12})"
_NAME: Final = r"['\"`]?([\w.-]{1,100}/[\w.-]{1,120}|/[\w./-]{1,250})"

LINES: Final[tuple[tuple[str, re.Pattern[str], _Fact], ...]] = tuple(
    (needle, re.compile(pattern), tell)
    for needle, pattern, tell in (
        ("Instantaneous batch size per device", rf"per device = {_N}", _BATCH),
        ("Gradient Accumulation steps", rf"Accumulation steps = {_N}", _STEPS),
        ("Gradient accumulation steps", rf"accumulation steps = {_N}", _STEPS),
        ("Batch size per device", rf"size per device = {_N}", _BATCH),
        ("Num examples", rf"Num examples = {_N}", _examples),
        ("Running Evaluation", r"Running Evaluation", _evaluates),
        ("Num GPUs", rf"Num GPUs(?: used)? = {_N}", _gpus),
        ("Unsloth", r"Unsloth(?: \d{4}\.\d{1,2}\.\d{1,3}| - )", _unsloth),
        ("trainable params", rf"trainable params: {_N} \|\| all params: {_N}", _trainable),
        ("Trainable parameters", rf"Trainable parameters = {_N}(?:/| of ){_N}", _trainable),
        ("models--", r"models--([\w.-]{1,60}--[\w.-]{1,120})", _cached),
        ("huggingface.co/", rf"huggingface\.co/{_NAME}/resolve/", _model(certain=False)),
        ("oading model", rf"oading model(?: weights)?(?: from)?:? {_NAME}", _model()),
        ("to load model", rf"to load model:? {_NAME}", _model()),
        ("engine", r"LLM engine \(v[\w.+]{1,40}\) with config:", _engine),
        ("loaded meta data", r"tensors from (\S{1,250}\.gguf)", _gguf),
        ("n_ctx", rf"\bn_ctx\s{{0,10}}= {_N}", _context),
        ("zero_optimization_stage", r"zero_optimization_stage ?\.{2,60} ?([123])", _zero),
        ("train_micro_batch_size_per_gpu", rf"per_gpu ?\.{{0,60}} {{0,3}}{_N}", _BATCH),
        ("modeling_", r"modeling_([a-z0-9_]{2,30})\.py", _family),
    )
)  # fmt: skip
"""(word that the line holds, pattern, what it tells); sources: transformers/trainer.py, peft's
``print_trainable_parameters``, unsloth's banner, DeepSpeed's config.py, vLLM's engine, llama.cpp's
loader."""


def read_line(facts: Facts, line: str) -> None:
    """What one line tells."""
    for needle, pattern, tell in LINES:
        if needle in line:
            match = pattern.search(line)
            if match is not None:
                tell(facts, match)
