"""Plain data as lines of Python, laid out as a formatter would."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from willfit.dtypes import DType
from willfit.emit.call import Call, Variable

WIDTH: Final = 100
"""Characters a line."""


def literal(value: Any) -> str:
    """A value on one line: ``torch.bfloat16``, ``{"": DEVICE}``."""
    if isinstance(value, DType):
        return f"torch.{value.name}"
    if isinstance(value, Variable):
        return value.name
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Call):
        inner = (f"{name}={literal(item)}" for name, item in value.arguments.items())
        return f"{value.name}({', '.join(inner)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def assignment(target: str, value: Any, *, comment: str = "") -> list[str]:
    """``TARGET = value  # comment``."""
    return _placed(f"{target} = ", value, "", 0, comment)


def call_lines(target: str, call: Call, first: Sequence[str] = ()) -> list[str]:
    """``target = name(first, argument=value,  # reason …)``; an empty target is a statement."""
    head = f"{target} = {call.name}(" if target else f"{call.name}("
    lines = [head, *(f"    {item}," for item in first)]
    lines += _arguments(call, 4)
    return _joined([*lines, ")"], commented=bool(call.reasons))


def _arguments(call: Call, indent: int) -> list[str]:
    lines: list[str] = []
    for name, value in call.arguments.items():
        lines += _placed(f"{name}=", value, ",", indent, call.reasons.get(name, ""))
    return lines


def _placed(before: str, value: Any, after: str, indent: int, comment: str = "") -> list[str]:
    """One line where it fits and hides no reason, else a piece a line."""
    space = " " * indent
    note = f"  # {comment}" if comment else ""
    line = f"{space}{before}{literal(value)}{after}"
    hides = isinstance(value, Call) and bool(value.reasons)
    if (len(line) <= WIDTH and not hides) or not isinstance(value, (Call, Mapping, list, tuple)):
        return [line + note]
    if isinstance(value, Call):
        inside, opening, closing = _arguments(value, indent + 4), f"{value.name}(", ")"
    elif isinstance(value, Mapping):
        opening, closing = "{", "}"
        inside = _each((f"{literal(k)}: ", v) for k, v in value.items())
        inside = [" " * (indent + 4) + item for item in inside]
    else:
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
        inside = [" " * (indent + 4) + item for item in _each(("", v) for v in value)]
    return [f"{space}{before}{opening}{note}", *inside, f"{space}{closing}{after}"]


def _each(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [line for before, value in items for line in _placed(before, value, ",", 0)]


def _joined(lines: list[str], *, commented: bool) -> list[str]:
    """On one line where that fits, as a formatter without magic commas would."""
    short = lines[0] + ", ".join(line.strip().rstrip(",") for line in lines[1:-1]) + lines[-1]
    has_comment = commented or any("  # " in line for line in lines)
    return [short] if len(short) <= WIDTH and not has_comment else lines


def imports(names: Mapping[str, Iterable[str]], modules: Iterable[str] = ()) -> list[str]:
    """``import torch`` and ``from transformers import A, B``, in a linter's order."""
    lines = [f"import {module}" for module in sorted(modules)]
    for library in sorted(names):
        found = sorted(set(names[library]), key=_member_order)
        if not found:
            continue
        line = f"from {library} import {', '.join(found)}"
        if len(line) > WIDTH:
            lines += [f"from {library} import (", *(f"    {name}," for name in found), ")"]
        else:
            lines.append(line)
    return lines


def _member_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as isort sorts a list of names."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def said(text: str, limit: int = 80) -> str:
    """A stranger's words as a comment or docstring can hold them: one line, no quotes."""
    kept = "".join(c for c in text if c.isprintable() and c not in "\"'\\")
    return kept[:limit]
