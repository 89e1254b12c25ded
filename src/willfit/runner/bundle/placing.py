"""Where what a pipeline refers to will be: in the bundle, under the inputs, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from willfit.errors import InputError
from willfit.runner.bundle.code import Code
from willfit.runner.bundle.text import Reference
from willfit.runner.pipeline.pipeline import _existing, _home

INPUTS: Final = "/kaggle/input"
CODE: Final = "code"
FILES: Final = "files"


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """A path, or a name of the Hub, and where it will be."""

    source: str
    """As it was given: a path, or a name as the pipeline has it."""
    target: str
    """Under /kaggle/input."""

    def of(self, text: str) -> str | None:
        """Where a path will be; None where it is not the mapping's."""
        absolute = os.path.abspath(Path(self.source).expanduser())  # noqa: PTH100 - links stay
        for source in (self.source.rstrip("/"), absolute):
            if text == source:
                return self.target
            if text.startswith(f"{source}/"):
                return f"{self.target}{text[len(source) :]}"
        return None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A reference and what stands for it in the bundle."""

    reference: Reference
    bundled: str | None = None
    """Path in the bundle."""
    attached: str | None = None
    """Path under /kaggle/input, which has to be attached."""
    written: str | None = None
    """Other text: the name of the output."""
    here: Path | None = None
    """The file or folder of this machine that stays behind."""

    def piece(self) -> dict[str, str] | None:
        """As ``bundle.json`` has it; None where the text stays."""
        if self.bundled is not None:
            return {"bundle": self.bundled}
        return {"input": self.attached} if self.attached is not None else None

    def text(self) -> str | None:
        """As ``pipeline.yaml`` has it; None where the text stays."""
        return self.bundled or self.attached or self.written


@dataclass(frozen=True, kw_only=True)
class Included:
    """Files and folders that the user puts into the bundle, with their names in it."""

    names: dict[Path, str]

    def of(self, path: Path) -> str | None:
        """Path in the bundle of what is one of them, or in one."""
        for source, name in self.names.items():
            if path == source:
                return f"{FILES}/{name}"
            if path.is_relative_to(source):
                return f"{FILES}/{name}/{path.relative_to(source).as_posix()}"
        return None


def included(paths: Sequence[Path]) -> Included:
    """Those paths, each with a name of its own; raises `InputError` for one that is not there."""
    names: dict[Path, str] = {}
    for path in paths:
        source = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - links stay
        if not source.exists():
            raise InputError(f"there is no {path} to include: check the path")
        stem, count = source.name, 2
        while (name := stem) in names.values():
            stem, count = f"{count}-{source.name}", count + 1
        names[source] = name
    return Included(names=names)


def mappings(pairs: Sequence[str]) -> tuple[Mapping, ...]:
    """Mappings written ``/here=/kaggle/input/there``, the longest first; raises `InputError`."""
    found: list[Mapping] = []
    for pair in pairs:
        source, equals, target = pair.partition("=")
        inside = PurePosixPath(os.path.normpath(target))
        if not (source and equals and inside.is_relative_to(INPUTS)) or str(inside) == INPUTS:
            raise InputError(
                f"--map {pair[:200]!r} is no mapping: expected a path here and one under {INPUTS}, "
                f"such as /data/gemma={INPUTS}/gemma"
            )
        found.append(Mapping(source=source, target=str(inside)))
    return tuple(sorted(found, key=lambda m: -len(m.source)))


def place(
    reference: Reference, folder: Path, code: Code, files: Included, maps: Sequence[Mapping]
) -> Placed:
    """What becomes of one reference; ``folder`` is the pipeline file's."""
    value = reference.value
    if reference.kind == "function":
        return Placed(reference=reference, bundled=f"{CODE}/{code.names[value]}")
    if reference.kind == "output":
        suffix = "".join(PurePosixPath(value).suffixes)
        return Placed(reference=reference, written=f"submission{suffix}")
    path = _resolved(reference, folder)
    targets = [mapping.of(text) for text in (value, str(path)) for mapping in maps]
    target = next((target for target in targets if target is not None), None)
    if target is not None:
        return Placed(reference=reference, attached=target)
    if value.startswith(f"{INPUTS}/"):
        return Placed(reference=reference, attached=os.path.normpath(value))
    inside = files.of(path)
    if inside is not None:
        return Placed(reference=reference, bundled=inside)
    there = path if reference.kind == "data" or path.exists() else None
    return Placed(reference=reference, here=there)


def _resolved(reference: Reference, folder: Path) -> Path:
    if reference.kind == "data":
        path = folder / _home(reference.value)
    else:
        path = Path(_existing(reference.value, folder))
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay


def unused(maps: Sequence[Mapping], placed: Sequence[Placed]) -> list[str]:
    """Sources of mappings that nothing of the pipeline is under."""
    targets = [each.attached for each in placed if each.attached is not None]
    return [m.source for m in maps if not any(_under(t, m.target) for t in targets)]


def _under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
