"""Values that source text states outright: literals, names of a library, displays of them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Symbol:
    """A dotted name of a library, ``torch.float16``."""

    name: str


class _Unknown:
    """What cannot be told from the source."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()

DTYPES: Final = {
    "float32": "float32",
    "float": "float32",
    "float16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "float64": "float64",
    "double": "float64",
}
"""Names under which torch has its floating types."""


def dtype_of(value: object) -> str | None:
    """``float16`` of ``torch.half``, ``torch.float16`` or ``"float16"``; None otherwise."""
    if isinstance(value, Symbol):
        owner, _, name = value.name.rpartition(".")
        return DTYPES.get(name) if owner == "torch" else None
    return value if isinstance(value, str) and value in DTYPES.values() else None


def is_true(value: object) -> bool:
    """Whether a value is the literal ``True``."""
    return value is True


def text_of(node: ast.AST, limit: int = 60) -> str:
    """Source text of an expression on one line, cut."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
