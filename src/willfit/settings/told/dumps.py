"""Settings that programs print whole: JSON, ``TrainingArguments(…)``, ``Namespace(…)``, dicts."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from willfit.errors import InputError
from willfit.settings import axolotl
from willfit.settings.command_lines import settings_of
from willfit.settings.settings import Settings
from willfit.settings.told.facts import Facts

MAX_LINES: Final = 600
"""Longest dump that is put together."""
MAX_CHARACTERS: Final = 60_000
"""Longest text of one."""
MAX_DEPTH: Final = 100
"""Bound on brackets within brackets; a config has four."""
MAX_WASTED: Final = 2_000_000
"""Bound on what is spent on brackets without a partner, so that reading stays linear."""


def dump_at(facts: Facts, lines: Sequence[str], start: int) -> int:
    """Read the dump that begins at a line; how many lines it takes, 0 where none begins."""
    line = lines[start]
    if facts.wasted > MAX_WASTED:
        return 0
    for opening, ends, read in _DUMPS:
        match = opening.search(line) if len(line) < MAX_CHARACTERS else None
        if match is None:
            continue
        body, count = _gathered(lines, start, match.start(1), ends)
        if count:
            read(facts, body)
        else:
            facts.wasted += len(body)
        return count
    return 0


def _gathered(
    lines: Sequence[str], start: int, column: int, ends: tuple[str, str]
) -> tuple[str, int]:
    """Text from a bracket to its partner, and the number of lines; 0 where it has no partner."""
    opening, _ = ends
    brackets = _BRACKETS[ends]
    depth, size = 0, 0
    parts: list[str] = []
    for number in range(start, min(start + MAX_LINES, len(lines))):
        text = lines[number][column if number == start else 0 :][:MAX_CHARACTERS]
        for sign in brackets.finditer(text):
            depth += 1 if sign[0] == opening else -1
            if depth == 0:
                return "\n".join([*parts, text[: sign.end()]]), number - start + 1
        size += len(text)
        parts.append(text)
        if size > MAX_CHARACTERS or depth > MAX_DEPTH:
            break
    return "\n".join(parts), 0


def _json(facts: Facts, text: str) -> None:
    """A config of the model, of bitsandbytes, of Axolotl or of a trainer."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = _literal(text)
    if isinstance(content, dict):
        _mapping(facts, content)


def _literal(text: str) -> Any:
    """A Python dict as printed."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _mapping(facts: Facts, content: Mapping[str, Any]) -> None:
    name = content.get("_name_or_path")
    if isinstance(name, str) and name:
        facts.name_model(name)
    quantized = content.get("quantization_config", content)
    if isinstance(quantized, dict):
        _quantization(facts, quantized)
    if axolotl.recognise(content):
        _added(facts, axolotl.read, content)
    elif content.keys() & _SURE:
        facts.add(settings_of(content))


_SURE: Final = frozenset({"per_device_train_batch_size", "model_name_or_path", "max_model_len",
                          "gradient_accumulation_steps", "gradient_checkpointing"})  # fmt: skip


def _added(
    facts: Facts, read: Callable[[Mapping[str, Any]], Settings], content: Mapping[str, Any]
) -> None:
    try:
        facts.add(read({key: value for key, value in content.items() if key not in _FILES}))
    except InputError as error:
        facts.ignore(str(error))


_FILES: Final = ("deepspeed",)
"""Settings whose reader would look for a file of that name."""


def _quantization(facts: Facts, content: Mapping[str, Any]) -> None:
    if content.get("load_in_8bit") is True:
        facts.flags["quantize"] = "int8"
    elif content.get("load_in_4bit") is True and "bnb_4bit_quant_type" in content:
        kind = "nf4" if content["bnb_4bit_quant_type"] == "nf4" else "fp4"
        double = content.get("bnb_4bit_use_double_quant") is True
        facts.flags["quantize"] = f"{kind}-double" if double else kind
        compute = str(content.get("bnb_4bit_compute_dtype", "")).removeprefix("torch.")
        if compute in ("float16", "bfloat16", "float32"):
            facts.flags["bnb_4bit_compute_dtype"] = compute


_FIELD: Final = re.compile(
    r"(?:^|[(,]\s{0,4})\s{0,8}(\w{1,60})=([^\n=]{0,300}?)"
    r"(?=,\s{0,4}\w{1,60}=|,?\s{0,4}\)?$)",
    re.MULTILINE,
)
_ENUM: Final = re.compile(r"<?\w{1,40}\.\w{1,60}(?:: '([\w.-]{1,60})'>)?")


def _arguments(facts: Facts, text: str) -> None:
    """``TrainingArguments(…)`` with one ``name=value,`` a line, or all on one line."""
    content: dict[str, Any] = {}
    for name, value in _FIELD.findall(text.strip()[1:-1]):
        found = _scalar(value.strip().rstrip(","))
        if found is not None:
            content[name] = found
    if not content.keys() & _SURE:
        return
    read = settings_of(content)
    method = {} if "use_peft" in content else {"train": None}  # they do not tell it
    flags = {name: value for name, value in read.flags.items() if name not in method}
    facts.add(replace(read, flags=flags, assumptions=()))


def _scalar(text: str) -> Any:
    enum = _ENUM.fullmatch(text)
    if enum is not None:
        return enum[1] or text.rpartition(".")[2].lower()
    found = _literal(text)
    if isinstance(found, (str, int, float, bool, list, dict)):
        return found
    return text if re.fullmatch(r"[a-z_0-9]{1,40}", text) and text != "None" else None


_BRACES: Final = ("{", "}")
_ROUND: Final = ("(", ")")
_BRACKETS: Final = {_BRACES: re.compile(r"[{}]"), _ROUND: re.compile(r"[()]")}
_DUMPS: Final[tuple[tuple[re.Pattern[str], tuple[str, str], Callable[[Facts, str], None]], ...]] = (
    (re.compile(r"(?:TrainingArguments|SFTConfig|Namespace)(\()"), _ROUND, _arguments),
    (re.compile(r"^[^{]{0,200}(\{)\s{0,20}$"), _BRACES, _json),
    (re.compile(r"^[^{]{0,200}(\{)['\"]\w{1,60}['\"]: "), _BRACES, _json),
)
"""(how it begins, its brackets, who reads it)."""
