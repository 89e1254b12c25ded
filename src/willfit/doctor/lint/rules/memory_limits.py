"""Rules on ``max_memory`` and offloading: limits that are read otherwise than they look."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, Final

from willfit.doctor.lint.code import Argument, Code
from willfit.doctor.lint.edits import Edit, ReplaceExpression, SetKeyword
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import Load
from willfit.doctor.lint.values import UNKNOWN

_AMOUNT: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")
_BYTES: Final = re.compile(r"(?i:[gmk]ib)|(?i:[gmk])B")
"""Units that accelerate reads as bytes (`convert_file_size_to_int`): 1024-based ones in any
spelling, decimal ones with a capital B."""
_BITS: Final = re.compile(r"(?i:[gmk])b")
"""A small b at the end is bits there: an eighth."""
_DEVICE: Final = re.compile(r"(?:cuda:)?(\d+)")
_NEEDS_MAP: Final = ("max_memory", "offload_folder")


def _without_map(code: Code) -> Iterator[Problem]:
    for load in code.models.loads:
        if load.arguments.open or "device_map" in load.arguments.named:
            continue
        if not load.owner.startswith("transformers."):
            continue
        for name in _NEEDS_MAP:
            argument = load.argument(name)
            if argument is None:
                continue
            value = code.value(argument.value)
            unclear = value is None or value is UNKNOWN
            if unclear and not isinstance(argument.value, ast.Dict):
                continue
            yield Problem(
                at=argument.node,
                message=f"from_pretrained ignores {name} where no device_map is given",
                fix='device_map="auto"',
                edits=(SetKeyword(at=code.position(load.call), name="device_map", code='"auto"'),),
            )


def limits(code: Code) -> Iterator[tuple[ast.Dict, Load | None]]:
    """Every ``{…}`` that is given as ``max_memory``."""
    for call in code.calls:
        argument = code.arguments(call).named.get("max_memory")
        if argument is None and code.key(call.func) == "accelerate.infer_auto_device_map":
            argument = _positional(call)
        if argument is not None:
            origin = code.origin(argument.value)
            if isinstance(origin, ast.Dict):
                yield origin, None


def _positional(call: ast.Call) -> Argument | None:
    if len(call.args) < 2:
        return None
    return Argument(name="max_memory", value=call.args[1], owner=call, node=call.args[1])


def _text_keys(code: Code) -> Iterator[Problem]:
    for table, _ in limits(code):
        for key in table.keys:
            value = code.value(key)
            found = _DEVICE.fullmatch(value) if isinstance(value, str) else None
            if key is not None and found is not None:
                yield Problem(
                    at=key,
                    message=f"max_memory knows GPUs by number: {value!r} ends in ValueError",
                    fix=f"{int(found[1])}: …",
                    edits=_literal(code, key, str(int(found[1]))),
                )


def _units(code: Code) -> Iterator[Problem]:
    for table, _ in limits(code):
        for item in table.values:
            said = misread(code.value(item))
            if said is not None:
                message, fix = said
                yield Problem(
                    at=item,
                    message=message,
                    fix=fix,
                    edits=_literal(code, item, fix),
                )


def misread(value: Any) -> tuple[str, str] | None:
    """What accelerate makes of an amount, and what to write, where it is not what it looks like."""
    found = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    number, unit = found["number"], found["unit"]
    if _BYTES.fullmatch(unit):
        return None
    if _BITS.fullmatch(unit):
        return (
            f"{value!r} is read as bits: {float(number) / 8:g} {unit[0].upper()}B, an eighth of "
            "what it looks like",
            f'"{number}{unit[0].upper()}B"',
        )
    if unit.upper() in ("G", "M", "K", "T", "TB", "TIB", ""):
        fix = f'"{number}GiB"' if unit.upper() in ("G", "") else f'"{number}{unit[0].upper()}iB"'
        return f"{value!r} is no amount for accelerate: ValueError", fix
    return None


def _literal(code: Code, node: ast.expr, text: str) -> tuple[Edit, ...]:
    if not isinstance(node, ast.Constant):
        return ()
    return (ReplaceExpression(at=code.position(node), code=text),)


RULES: Final = (
    Rule(
        name="limit-without-device-map",
        severity="ignored",
        why="max_memory and offload_folder are read only while a device_map is worked out.",
        check=_without_map,
    ),
    Rule(
        name="limit-for-text-key",
        severity="error",
        why="max_memory wants the GPUs' numbers as keys.",
        check=_text_keys,
    ),
    Rule(
        name="limit-misread",
        severity="error",
        why="accelerate reads Gb as bits and refuses amounts without a B.",
        check=_units,
    ),
)
