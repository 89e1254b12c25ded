"""Configurations that differ in the text and load the same model."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import config_bits
from willfit.doctor.lint.rules.bitsandbytes import configs
from willfit.doctor.lint.values import UNKNOWN, Symbol, dtype_of

_EIGHT: Final[Mapping[str, Any]] = {
    "llm_int8_threshold": 6.0,
    "llm_int8_skip_modules": None,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
}
"""What 8-bit loading reads, with its defaults (transformers, `BitsAndBytesConfig.__init__`)."""
_FOUR: Final[Mapping[str, Any]] = {
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": False,
    "bnb_4bit_quant_storage": "uint8",
    "llm_int8_skip_modules": None,
    "llm_int8_enable_fp32_cpu_offload": False,
}
"""What 4-bit loading reads, with its defaults."""
_FRESH: Final = (
    "compare each in a fresh process (willfit compare, or restart the kernel before each load)"
)


@dataclass(frozen=True, kw_only=True)
class SameConfigs:
    """Configurations of one program that have the same effect although they differ."""

    lines: tuple[int, ...]
    """Line of each in the program, from 1."""
    effect: str
    """What each of them loads: ``8-bit LLM.int8``."""
    ignored: tuple[str, ...]
    """Keys that one of them gives and none of them uses."""
    message: str


def compare_configs(*given: Mapping[str, Any]) -> SameConfigs | None:
    """Whether keyword sets of ``BitsAndBytesConfig`` mean the same; None where they differ.

    ``compare_configs({"load_in_8bit": True, "bnb_8bit_use_double_quant": False},
    {"load_in_8bit": True, "bnb_8bit_quant_type": "nf8"})`` says that both load 8-bit LLM.int8.
    """
    effects = [_effect(keys) for keys in given]
    if len(given) < 2 or any(one is None or one != effects[0] for one in effects):
        return None
    if all(dict(keys) == dict(given[0]) for keys in given):
        return None
    return _said(given, lines=tuple(range(1, len(given) + 1)))


def same_in_code(code: Code) -> Iterator[tuple[list[ast.Call], SameConfigs]]:
    """Groups of configurations of a program with one effect and different keys."""
    groups: dict[str, list[tuple[ast.Call, dict[str, Any]]]] = {}
    for call, arguments in configs(code):
        if arguments.open or config_bits(code, call) is None:
            continue
        keys = {name: code.value(a.value) for name, a in arguments.named.items()}
        effect = _effect(keys)
        if effect is not None:
            groups.setdefault(repr(sorted(effect.items(), key=str)), []).append((call, keys))
    for members in groups.values():
        distinct = {repr(sorted(keys.items(), key=str)): (call, keys) for call, keys in members}
        if len(distinct) > 1 and _ignored([keys for _, keys in distinct.values()]):
            calls = [call for call, _ in distinct.values()]
            found = [keys for _, keys in distinct.values()]
            yield calls, _said(found, lines=tuple(call.lineno for call in calls))


def _effect(keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a set of keys loads; None where a value cannot be told."""
    eight, four = keys.get("load_in_8bit", False), keys.get("load_in_4bit", False)
    if eight not in (True, False) or four not in (True, False) or (eight and four):
        return None
    read = _EIGHT if eight else _FOUR
    found = {name: _plain(keys.get(name, default)) for name, default in read.items()}
    if any(value is UNKNOWN for value in found.values()):
        return None
    return {"bits": 8 if eight else 4, **found}


def _plain(value: Any) -> Any:
    if isinstance(value, Symbol):
        return dtype_of(value) or value.name
    return tuple(value) if isinstance(value, list) else value


def _ignored(given: list[Mapping[str, Any]] | list[dict[str, Any]]) -> list[str]:
    """Keys in which they differ; those that are read have one value, so each is ignored."""
    names = dict.fromkeys(name for keys in given for name in keys)
    return [
        name
        for name in names
        if not name.startswith("load_in_")
        and len({repr(_plain(keys.get(name, UNKNOWN))) for keys in given}) > 1
        and (name not in _EIGHT or not given[0].get("load_in_8bit"))
        and (name not in _FOUR or bool(given[0].get("load_in_8bit")))
    ]


def _said(given: Any, *, lines: tuple[int, ...]) -> SameConfigs:
    eight = bool(given[0].get("load_in_8bit"))
    effect = "8-bit LLM.int8" if eight else f"4-bit {_four(given[0])}"
    ignored = tuple(_ignored(list(given)))
    both = (
        "both configurations mean" if len(given) == 2 else f"all {len(given)} configurations mean"
    )
    return SameConfigs(
        lines=lines,
        effect=effect,
        ignored=ignored,
        message=(
            f"{both} the same: they load {effect}; ignored: {', '.join(ignored) or 'nothing'}. "
            "If one ran out of memory and another did not, the difference came from elsewhere: "
            f"what was still in the process or on the GPU; {_FRESH}"
        ),
    )


def _four(keys: Mapping[str, Any]) -> str:
    kind = str(keys.get("bnb_4bit_quant_type", "fp4")).upper()
    return kind + (" with double quantisation" if keys.get("bnb_4bit_use_double_quant") else "")


def _same(code: Code) -> Iterator[Problem]:
    for calls, same in same_in_code(code):
        yield Problem(
            at=calls[-1],
            message=f"{' and '.join(map(code.where, calls))}: {same.message}",
            fix=_FRESH,
        )


RULES: Final = (
    Rule(
        name="configs-mean-the-same",
        severity="ignored",
        why="Configurations that differ in ignored keys alone explain no difference in memory.",
        check=_same,
    ),
)
