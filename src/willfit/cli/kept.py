"""Answers of traces kept on disk by content, so that the same question is answered at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from willfit.cli.build import Request
from willfit.installed import installed_versions
from willfit.report.contract import plain
from willfit.results import Estimate

MOST: Final = 500
"""Answers that are kept; the oldest go first."""
LARGEST: Final = 4 * 2**20
"""Bytes of a file that is read; an answer has some thousands."""
_LIBRARIES: Final = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "timm", "trl")


def key_of(request: Request) -> str:
    """What decides the answer: the question, the libraries' releases and our own code."""
    releases = {**dict.fromkeys(_LIBRARIES, ""), **installed_versions(_LIBRARIES)}
    said = [request.dtypes, request.assumptions, request.ignored_settings, request.unsupported]
    model = request.scenario.model
    tensors = [(row.name, row.shape, row.dtype.name, row.tied_to) for row in model.tensors]
    question = [plain(request.scenario), tensors, said, releases, _own_code()]
    text = json.dumps(question, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def recall(key: str, request: Request) -> Estimate | None:
    """The kept answer; None where there is none that can be read."""
    path = _folder() / f"{key}.json"
    try:
        if path.stat().st_size > LARGEST:
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        return typing.cast(Estimate, _made(Estimate, {**kept, "scenario": request.scenario}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep(key: str, estimate: Estimate) -> None:
    """Write an answer down; where that cannot be, the next one takes its time again."""
    facts = {field.name: plain(getattr(estimate, field.name)) for field in fields(estimate)}
    del facts["scenario"]
    folder = _folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{key}.{os.getpid()}.part"
        part.write_text(json.dumps(facts), encoding="utf-8")
        part.replace(folder / f"{key}.json")
        by_age = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in by_age[:-MOST]:
            path.unlink()


def _folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "willfit" / "traces"


def _own_code() -> str:
    """A change of any module may change an answer."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".json", ".jsonl"):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _made(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that the result's field has; raises where it is none."""
    if is_dataclass(kind) and not isinstance(value, Mapping):
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _made(hints[name], part) for name, part in value.items()})
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (other,) = [part for part in inner if part is not type(None)]
        return None if value is None else _made(other, value)
    if origin is tuple:
        return tuple(_made(inner[0], part) for part in typing.cast(Sequence[Any], value))
    return value
