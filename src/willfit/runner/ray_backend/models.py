"""Models on other nodes: where they lie there, and whether they are the driver's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from willfit.errors import InputError, WillfitError
from willfit.runner.content import PartName
from willfit.runner.content.digests import sample_file
from willfit.runner.content.find import find_model
from willfit.sources.snapshot import fetch_snapshot

NAMES: Final = ("model", "adapter", "tokenizer")
"""Settings of a stage that are paths."""
_SNAPSHOT: Final = re.compile(
    r".*/models--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/(?P<below>.+))?"
)
"""A path in huggingface_hub's cache."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model, adapter or tokenizer as the driver has it."""

    path: str
    """The folder or file."""
    samples: Mapping[str, str]
    """Digest of samples of each file that results depend on, by its name from the folder."""


def model_files(stage: Mapping[str, Any]) -> dict[str, ModelFiles]:
    """What a stage's settings name, by setting; empty for a stage that is a function."""
    code = bool(stage.get("trust_remote_code"))
    return {
        name: ModelFiles(path=path, samples=_samples(path, _parts(name), code=code))
        for name in NAMES
        if stage.get("run") is None and isinstance(path := stage.get(name), str)
    }


def located(model: ModelFiles, *, setting: str, code: bool, node: str) -> str:
    """Its path on this node; raises `InputError` where it is not there, or another."""
    path = model.path if Path(model.path).exists() else _from_hub(model, node)
    try:
        here = _samples(path, _parts(setting), code=code)
    except WillfitError as error:
        raise InputError(f"node {node}: {error}") from error
    for name, digest in model.samples.items():
        if here.get(name) != digest:
            what = "is another file than" if name in here else "is missing, unlike"
            raise InputError(
                f"node {node}: {name} in {path} {what} the driver's: copy the {setting} there again"
            )
    return path


def _from_hub(model: ModelFiles, node: str) -> str:
    """The snapshot in this node's own cache, downloaded if need be."""
    match = _SNAPSHOT.fullmatch(model.path)
    if match is None:
        raise InputError(
            f"node {node} has no {model.path}, which the driver has: copy it to the same path on "
            "every node, put it on a disk that they share, or name a Hub id"
        )
    repo = match["repo"].replace("--", "/")
    files = [name for name in sorted(model.samples) if "--" not in name]  # code of other repos
    try:
        folder = fetch_snapshot(repo, match["commit"], files)
    except InputError as error:
        raise InputError(f"node {node}: {error}") from error
    return str(folder / match["below"]) if match["below"] else str(folder)


def _parts(setting: str) -> tuple[PartName, ...]:
    return ("tokenizer",) if setting == "tokenizer" else ("weights", "config", "tokenizer")


def _samples(path: str, parts: tuple[PartName, ...], *, code: bool) -> dict[str, str]:
    """Of each file, of which at most 16 MiB are read."""
    wanted: tuple[PartName, ...] = (*parts, "code") if code else parts
    found = find_model(path, None, wanted, trust_remote_code=code)
    return {
        name: sample_file(file) for files in found.files.values() for name, file in files.items()
    }
