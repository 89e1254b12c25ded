"""The pipeline's text with other paths in it: every other character stays as it was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from willfit.errors import BrokenFileError, InputError
from willfit.runner.pipeline.reading import read_content

Kind = Literal["data", "function", "model", "output"]
_AT_TOP: Final[dict[str, Kind]] = {"data": "data", "prepare": "function", "output": "output"}
_IN_STAGE: Final[dict[str, Kind]] = {
    "run": "function", "model": "model", "adapter": "model", "tokenizer": "model",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A place of the pipeline that names something outside it."""

    where: str
    """As sentences name it: ``stages.gemma.model``."""
    kind: Kind
    value: str
    """As it is written."""
    start: int
    stop: int
    """Characters of the value in the text."""


@dataclass(frozen=True, kw_only=True)
class PipelineText:
    """A pipeline's text, in YAML, and where it refers to files and models."""

    text: str
    references: tuple[Reference, ...]

    def pieces(self, put: Callable[[Reference], Any]) -> list[Any]:
        """The text in pieces; where ``put`` has a value for a reference, it stands for it."""
        found: list[Any] = []
        end = 0
        for reference in self.references:
            value = put(reference)
            if value is not None:
                found += [self.text[end : reference.start], value]
                end = reference.stop
        return [*found, self.text[end:]]


def read_text(path: Path) -> PipelineText:
    """The text of a pipeline file; TOML and JSON become YAML. Raises `InputError`."""
    content, raw = read_content(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        text = raw.decode("utf-8-sig")
    else:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise BrokenFileError(f"{path} is not valid YAML: {str(error)[:80]}") from error
    found = {reference.start: reference for reference in _references(root)}
    return PipelineText(text=text, references=tuple(found[start] for start in sorted(found)))


def _references(root: Any) -> Iterator[Reference]:
    for name, node in _items(root):
        if name in _AT_TOP:
            yield from _scalar(name, _AT_TOP[name], _path_of(node))
        elif name == "defaults":
            yield from _of_stage(name, node)
        elif name == "stages":
            for stage, inner in _items(node):
                yield from _of_stage(f"stages.{stage}", inner)


def _path_of(node: Any) -> Any:
    """``output`` may be a path, or a mapping with one."""
    return dict(_items(node)).get("path", node) if isinstance(node, yaml.MappingNode) else node


def _of_stage(where: str, node: Any) -> Iterator[Reference]:
    for name, value in _items(node):
        if name in _IN_STAGE:
            yield from _scalar(f"{where}.{name}", _IN_STAGE[name], value)


def _items(node: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a mapping, with those that ``<<`` brings in."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _items(merged)
        else:
            yield str(key.value), value


def _scalar(where: str, kind: Kind, node: Any) -> Iterator[Reference]:
    if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
        return
    if node.style in ("|", ">"):
        raise InputError(f"{where} is written over several lines: write it on one")
    yield Reference(
        where=where, kind=kind, value=node.value,
        start=node.start_mark.index, stop=node.end_mark.index,
    )  # fmt: skip
