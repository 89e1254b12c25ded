"""Kinds: whether what was given is a log, a script, a notebook, settings or a snapshot."""

from __future__ import annotations

import ast
import json
from pathlib import PurePath
from typing import Final, Literal

Kind = Literal["log", "script", "notebook", "settings", "snapshot"]

HEAD: Final = 2**20
"""Bytes of a file that are looked at; scripts and settings are smaller than this as a whole."""
_SUFFIXES: Final[dict[str, Kind]] = {
    ".py": "script", ".ipynb": "notebook", ".yaml": "settings", ".yml": "settings",
    ".pickle": "snapshot", ".pkl": "snapshot", ".log": "log", ".txt": "log", ".out": "log",
    ".err": "log",
}  # fmt: skip
_PICKLE: Final = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_ARCHIVE: Final = b"PK\x03\x04"
"""What `torch.save` writes; the snapshot's reader says what was expected instead."""
_DOES: Final = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef, ast.With)


def kind_of(name: str, head: bytes) -> Kind:
    """By the ending of the name; by the first bytes where that says nothing."""
    suffix = PurePath(name).suffix.lower()
    if head.startswith((*_PICKLE, _ARCHIVE)):
        return "snapshot"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    text = head.decode("utf-8", "replace")
    if text.lstrip()[:1] == "{" and len(head) < HEAD:
        return _of_object(text, suffix)
    return "script" if len(head) < HEAD and is_python(text) else "log"


def _of_object(text: str, suffix: str) -> Kind:
    """A notebook has cells; other JSON is settings where it is one object, else lines of a log."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "settings" if suffix == ".json" else "log"
    if isinstance(found, dict) and isinstance(found.get("cells"), list):
        return "notebook"
    return "settings" if suffix == ".json" else "log"


def is_python(text: str) -> bool:
    """Whether a text is a program: it parses, and does more than name things.

    A single word (``Killed``) parses too.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = any(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in tree.body
    )
    return called or any(isinstance(node, _DOES) for node in tree.body)
