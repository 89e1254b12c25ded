"""Reading settings files of strangers: bounded, and nothing but data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError

MAX_BYTES: Final = 2**20
"""Bound on a settings file; a real one has a few kilobytes."""
MAX_ALIASES: Final = 100
"""Bound on YAML aliases: each repeats what its anchor holds."""
MAX_NODES: Final = 20_000
"""Bound on values once aliases are followed, against files that multiply."""
MAX_DEPTH: Final = 40


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; raises `InputError` where it is not one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenFileError(f"{path} is larger than 1 MiB: expected a settings file")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BrokenFileError(f"{path} is not text: expected YAML or JSON settings") from None
    content = _json(text, path) if path.suffix == ".json" else _yaml(text, path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}: expected settings, one 'name: value' a line"
        )
    _bounded(content, path)
    return content


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenFileError(f"{path} is not valid JSON: check its brackets and commas") from None


def _yaml(text: str, path: Path) -> Any:
    import yaml

    if text.count("*") > MAX_ALIASES and sum(1 for _ in _aliases(text, path)) > MAX_ALIASES:
        raise BrokenFileError(f"{path} repeats itself by more than {MAX_ALIASES} YAML aliases")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise BrokenFileError(
            f"{path} is not valid YAML: {where or type(error).__name__}"
        ) from None


def _aliases(text: str, path: Path) -> Any:
    import yaml

    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):
                yield token
    except (yaml.YAMLError, RecursionError):
        raise BrokenFileError(f"{path} is not valid YAML") from None


def _bounded(content: Any, path: Path) -> None:
    """Walk the values as they unfold, and stop where there are too many or they nest too deep."""
    seen = 0
    todo = [(content, 0)]
    while todo:
        value, depth = todo.pop()
        seen += 1
        if seen > MAX_NODES or depth > MAX_DEPTH:
            raise BrokenFileError(
                f"{path} unfolds to more than {MAX_NODES:,} values or nests too deep: "
                "expected a settings file"
            )
        if isinstance(value, dict):
            todo.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, (list, tuple)):
            todo.extend((item, depth + 1) for item in value)
