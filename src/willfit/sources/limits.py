"""Bounds on what a stranger's file may make us read, and the JSON reader that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from willfit.errors import BrokenFileError, InputError, ModelAccessError, ModelNotFoundError
from willfit.units import MIB, format_bytes

MAX_CONFIG_BYTES: Final = 16 * MIB
"""A ``config.json``; the largest real ones (label maps of 21,841 classes) stay under 2 MiB."""
MAX_INDEX_BYTES: Final = 128 * MIB
"""A ``model.safetensors.index.json``; DeepSeek-V3's 91,991 tensors take 8.9 MB."""
MAX_HEADER_BYTES: Final = 100_000_000
"""A safetensors header: the format's own bound (safetensors ``MAX_HEADER_SIZE``)."""
MAX_GGUF_HEADER_BYTES: Final = 256 * MIB
"""Metadata and tensor list of a GGUF; vocabularies of 260,000 tokens take about 12 MB."""
MAX_DEPTH: Final = 64
"""Nesting of a JSON document; real configs stay below 10."""
MAX_TENSORS: Final = 2_000_000
"""Tensors of one checkpoint; the largest published ones have some 200,000."""
MAX_DIMENSION: Final = 2**48
"""One dimension of a tensor: beyond what any file could store."""


def read_bounded(path: Path, limit: int) -> bytes:
    """Content of a small file; every way in which that fails has its own sentence."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > limit:
        raise BrokenFileError(
            f"{path} is larger than {format_bytes(limit)}, which no real file of its kind is: "
            "check that it is the file you meant"
        )
    return content


def unreadable(path: Path, error: OSError) -> InputError:
    """The sentence for a file that the operating system does not let us read."""
    if isinstance(error, FileNotFoundError):
        return ModelNotFoundError(f"there is no file {path}: check the path")
    if isinstance(error, PermissionError):
        return ModelAccessError(f"no permission to read {path}: give this user read access to it")
    if isinstance(error, IsADirectoryError):
        return BrokenFileError(f"{path} is a folder, expected a file: name the model's folder")
    return ModelAccessError(f"cannot read {path}: {error.strerror or type(error).__name__}")


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object whose size and depth are bounded; ``where`` names the file in errors.

    Refused as well: duplicate keys, NaN and infinities, and text that is not UTF-8.
    """
    try:
        found = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise BrokenFileError(
            f"{where} is not valid JSON ({reason}){_hint(content)}: download it again"
        ) from error
    if not isinstance(found, dict):
        raise BrokenFileError(
            f"{where} holds a JSON {_json_type(found)}, expected an object with named fields"
        )
    if _too_deep([found]):
        raise BrokenFileError(f"{where} is nested more than {MAX_DEPTH} levels deep: not a config")
    return found


def _hint(content: bytes) -> str:
    start = content.lstrip()[:60].lower()
    if start.startswith((b"<!doctype", b"<html")):
        return ", it is an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return ", it is a git-lfs pointer: run 'git lfs pull'"
    return ""


def _json_type(value: object) -> str:
    names = {list: "list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _too_deep(level: Iterable[object]) -> bool:
    """Whether containers nest beyond the bound; breadth first, so that it never recurses."""
    for _ in range(MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
        if not level:
            return False
    return True


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, (dict, list))]
    if isinstance(value, list):
        return [child for child in value if isinstance(child, (dict, list))]
    return ()
