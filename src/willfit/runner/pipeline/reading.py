"""The content of a pipeline file by its suffix: YAML, TOML or JSON, bounded, nothing but data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from willfit.errors import BrokenFileError, InputError
from willfit.runner.pipeline import yaml_text
from willfit.runner.pipeline.values import shown
from willfit.settings.files import MAX_BYTES
from willfit.sources.limits import read_bounded


def read_content(path: Path) -> tuple[dict[Any, Any], bytes]:
    """The mapping that a file holds, and its bytes; raises `InputError` where it is none."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the pipeline file in it")
    read = _FORMATS.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"{path} has no suffix of a pipeline file: expected one of {', '.join(_FORMATS)}"
        )
    content = read_bounded(path, MAX_BYTES)
    found = read(_text(content, path), str(path))
    if not isinstance(found, Mapping):
        raise InputError(
            f"{path} is {'empty' if found is None else shown(found)}: expected a pipeline with "
            "data and stages, one 'name: value' a line"
        )
    return dict(found), content


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BrokenFileError(
            f"{path} is not UTF-8 text at line {line}: save it as UTF-8"
        ) from None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BrokenFileError(
            f"{where} is not valid JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg}): check its brackets, commas and quotes"
        ) from None
    except ValueError as error:
        raise BrokenFileError(f"{where} {error}") from None
    except RecursionError:
        raise BrokenFileError(f"{where} nests too deep: expected a pipeline") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"has {shown(name)} twice in one object: keep one of them")
        found[name] = value
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"has {text}, which is no JSON number: write a finite one")


def _toml(text: str, where: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            return tomllib.loads(text)
        except ValueError as error:
            raise BrokenFileError(f"{where} is not valid TOML: {error}") from None
        except RecursionError:
            raise BrokenFileError(f"{where} nests too deep: expected a pipeline") from None
    raise InputError(f"{where} is TOML, which Python reads from 3.11 on: write it as YAML")


_FORMATS: Final[dict[str, Callable[[str, str], Any]]] = {
    ".yaml": yaml_text.read,
    ".yml": yaml_text.read,
    ".toml": _toml,
    ".json": _json,
}
