"""A pipeline as it runs: its file read, its defaults in its stages, its paths found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from willfit.errors import InputError
from willfit.runner.pipeline.checks import problems
from willfit.runner.pipeline.file import PipelineFile
from willfit.runner.pipeline.merge import merged
from willfit.runner.pipeline.reading import read_content
from willfit.runner.pipeline.sentences import sentences, together
from willfit.runner.pipeline.stage import StageFile

_SCHEMA: str = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline file and where it lies."""

    file: PipelineFile
    """The file: its stages complete, paths absolute where something is there, the deadline at the
    top, and ``defaults`` as written."""
    folder: Path
    """What its relative paths are relative to."""
    path: Path | None
    """The file itself; None for a pipeline that Python made."""
    digest: str
    """blake2b-128, in hex, of the file's bytes, or of the mapping as JSON."""

    @property
    def stages(self) -> Mapping[str, StageFile]:
        """Complete stages, in the order in which they run."""
        return self.file.stages


def read_pipeline(path: Path) -> Pipeline:
    """The pipeline in a YAML, TOML or JSON file.

    Relative paths of ``data``, ``prepare`` and ``run``, and those of ``model``, ``adapter`` and
    ``tokenizer`` that exist, are taken from the file's folder; ``output`` from the current one, as
    the run's folder. Raises `InputError` with one sentence for whatever is wrong.
    """
    content, text = read_content(path)
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 - a link's folder, not its target's
    file = _parsed(content, folder, str(path))
    return Pipeline(file=file, folder=folder, path=folder / path.name, digest=_digest(text))


def pipeline_from(mapping: Mapping[str, Any], folder: Path) -> Pipeline:
    """The pipeline in a mapping as a file would hold it; paths may be `Path`s and lists tuples."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - as above
    file = _parsed(dict(mapping), folder, "the pipeline")
    text = json.dumps(dict(mapping), sort_keys=True, default=str)
    return Pipeline(file=file, folder=folder, path=None, digest=_digest(text.encode()))


def json_schema() -> dict[str, Any]:
    """JSON Schema of a pipeline file, for editors; what settings must be to each other it omits."""
    return {"$schema": _SCHEMA, **PipelineFile.model_json_schema()}


def _parsed(content: dict[Any, Any], folder: Path, where: str) -> PipelineFile:
    try:
        given = PipelineFile.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {together(sentences(error))}") from None
    given = given.model_copy(update=_placed_file(given, folder))
    complete = _complete(given, folder)
    found = list(problems(given, complete))
    if found:
        raise InputError(f"{where}: {together(found)}")
    return complete


def _complete(given: PipelineFile, folder: Path) -> PipelineFile:
    """The file with its defaults in its stages, and its deadline at the top."""
    stages = {name: merged(own, given.defaults) for name, own in given.stages.items()}
    placed = {
        name: stage.model_copy(update=_placed_stage(stage, folder))
        for name, stage in stages.items()
    }
    inner = given.defaults.deadline if given.defaults else None
    deadline = inner if given.deadline is None else given.deadline
    return given.model_copy(update={"stages": placed, "deadline": deadline})


def _placed_file(file: PipelineFile, folder: Path) -> dict[str, Any]:
    prepare = None if file.prepare is None else _function(file.prepare, folder)
    return {"data": str(folder / _home(file.data)), "prepare": prepare}


def _placed_stage(stage: StageFile, folder: Path) -> dict[str, Any]:
    placed = {
        name: _existing(value, folder)
        for name in ("model", "adapter", "tokenizer")
        if (value := getattr(stage, name)) is not None
    }
    return placed if stage.run is None else {**placed, "run": _function(stage.run, folder)}


def _function(text: str, folder: Path) -> str:
    """``prep.py:build`` with its file's place; ``package.module:build`` as it is."""
    module, colon, function = text.rpartition(":")
    if not (module and function.isidentifier()):
        return text
    is_file = module.endswith(".py") or os.path.isfile(folder / module)  # noqa: PTH113
    return f"{folder / _home(module)}{colon}{function}" if is_file else text


def _existing(text: str, folder: Path) -> str:
    """Its place where something is there, else the text: a name of the Hub or the catalogue."""
    place = folder / _home(text)
    return str(place) if os.path.exists(place) else text  # noqa: PTH110 - false for any name


def _home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a user that there is not
        return Path(text)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
