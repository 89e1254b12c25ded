"""What pydantic found wrong with a pipeline, as one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from willfit.runner.pipeline.file import EnsembleFile, OutputFile, PipelineFile
from willfit.runner.pipeline.stage import StageDefaults, StageFile
from willfit.runner.pipeline.values import cut, listed, nearest, shown

_Error = Mapping[str, Any]

_UNKNOWN: Final = ("extra_forbidden", "invalid_key")
_LEVELS: Final[Mapping[str, tuple[str, type[BaseModel]]]] = {
    "": ("a pipeline", PipelineFile),
    "stages": ("a stage", StageFile),
    "defaults": ("the defaults", StageDefaults),
    "ensemble": ("the ensemble", EnsembleFile),
    "output": ("the output", OutputFile),
}
"""Levels of the file by the first name of a path: what they are called, and their model."""

_PLACES: Final[Mapping[str, str]] = {
    "": "at the top of the file",
    "stages": "in a stage",
    "ensemble": "in ensemble",
    "output": "in output",
}

_MISSING: Final[Mapping[str, str]] = {
    "data": "add the table, such as data: test.parquet",
    "stages": "add one, such as stages: {gemma: {model: google/gemma-2-9b-it, labels: 3}}",
    "path": "add the file's name, such as path: submission.csv",
}

_MAPPINGS: Final[Mapping[str, str]] = {
    "ensemble": "a mapping such as {method: mean}",
    "output": "a path, or a mapping such as {path: submission.csv}",
    "weights": "a mapping such as {gemma: 2, llama: 1}",
    "generation": "a mapping such as {do_sample: true, top_p: 0.9}",
}


def sentences(error: ValidationError) -> list[str]:
    """A sentence for each fault, unknown names first: they explain what else is missing."""
    errors: Sequence[_Error] = error.errors(include_url=False)
    ordered = sorted(errors, key=lambda each: each["type"] not in _UNKNOWN)
    return [_sentence(each) for each in ordered]


def together(found: Sequence[str]) -> str:
    """The first of the sentences, and how many more there are."""
    return found[0] + (f"; and {len(found) - 1} more" if len(found) > 1 else "")


def _sentence(error: _Error) -> str:
    loc = tuple(str(part) for part in error["loc"])
    if loc[-1] == "[key]":
        inside = ".".join(loc[:-2])
        return f"{inside} has the name {shown(error['input'])}, expected {_expected(error)}"
    path = _dotted(loc)
    if error["type"] in _UNKNOWN:
        return _unknown(loc, path)
    if error["type"] in ("missing", "too_short"):
        what = "missing" if error["type"] == "missing" else "empty"
        return f"{path} is {what}: {_MISSING[loc[-1]]}"
    return f"{path} is {shown(error['input'])}, expected {_expected(error)}"


def _dotted(loc: Sequence[str]) -> str:
    """``stages.gemma.quantize``."""
    return ".".join(cut(part if part.isprintable() else repr(part)) for part in loc)


def _expected(error: _Error) -> str:
    if error["type"] == "expected":
        return str(error["ctx"]["words"])
    if error["type"] == "string_type":
        return "text: put it in quotes"
    return _MAPPINGS.get(str(error["loc"][-1]), "a mapping, one 'name: value' a line")


def _unknown(loc: Sequence[str], path: str) -> str:
    """A name that this level of the file does not have."""
    level = loc[0] if len(loc) > 1 else ""
    called, model = _LEVELS[level]
    near = nearest(loc[-1], model.model_fields)
    elsewhere = [
        place for other, place in _PLACES.items() if loc[-1] in _LEVELS[other][1].model_fields
    ]
    if elsewhere:
        return f"{path} is no setting of {called}: it belongs {listed(elsewhere)}"
    hint = f"did you mean {near}?" if near else f"known are {listed(model.model_fields, 'and')}"
    return f"{path} is no setting of {called}: {hint}"
