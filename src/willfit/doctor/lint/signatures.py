"""What the libraries' callables take, at the versions of a Stack: recorded, or as installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from willfit.doctor.lint.known import KNOWN
from willfit.doctor.lint.sources import Parameters, Sources, Unknown
from willfit.doctor.lint.spelling import near
from willfit.scenario.stack import TESTED, Stack, release

LIBRARIES: Final = ("transformers", "trl", "peft", "accelerate", "vllm", "deepspeed", "axolotl")
_BASE: Final = {"TrainingArguments": "transformers.TrainingArguments"}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Keywords of one callable at the versions that are judged."""

    key: str
    """``trl.SFTConfig``."""
    parameters: Parameters
    ever: frozenset[str]
    """Every name that a recorded release took."""
    certain: bool
    """False where the version is older or newer than what is recorded, or not known."""
    version: str
    """``trl 1.16.0``; the library's name alone where the version is not known."""

    def refuses(self, name: str) -> bool:
        """Whether ``name`` is certain to be none of its keywords."""
        if name in self.parameters.names:
            return False
        if self.certain or name in self.ever:
            return True
        return self.parameters.unknown == "raises" and near(name, self.parameters.names) is not None

    def meant(self, name: str) -> str | None:
        """The keyword that ``name`` is a misspelling of."""
        return near(name, self.parameters.names)


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """The callables at the versions of a Stack."""

    stack: Stack
    installed: bool = True
    """Whether a version that is not recorded may be read from what is installed."""
    found: dict[str, Signature | None] = field(default_factory=dict, repr=False, compare=False)
    """What was asked for so far."""

    def of(self, key: str) -> Signature | None:
        """Keywords of ``key``; None where nothing is recorded of it."""
        if key not in self.found:
            self.found[key] = self._of(key)
        return self.found[key]

    def _of(self, key: str) -> Signature | None:
        row = _recorded()["callables"].get(key)
        if row is None:
            return None
        library = key.partition(".")[0]
        version = self.stack.versions.get(library, "")
        found, certain = self._at(key, row, library, version)
        if found is None:
            return None
        if found.base in _BASE:
            base = self.of(_BASE[found.base])
            if base is not None:
                found, certain = _joined(found, base.parameters), certain and base.certain
        ever = frozenset(row["parameters"])
        return Signature(
            key=key,
            parameters=found,
            ever=ever | (base.ever if found.base in _BASE and base is not None else frozenset()),
            certain=certain,
            version=f"{library} {version}".strip(),
        )

    def _at(
        self, key: str, row: Mapping[str, Any], library: str, version: str
    ) -> tuple[Parameters | None, bool]:
        releases = [r for r in _recorded()["releases"][library] if r in row["unknown"]]
        if not version:
            return _union([_recorded_at(row, r) for r in releases]), False
        if version in releases:
            return _recorded_at(row, version), True
        if self.installed and _installed_version(library) == version:
            return _read_installed(key), True
        wanted = release(version)
        earlier = [r for r in releases if release(r) <= wanted]
        later = [r for r in releases if release(r) > wanted]
        around = [*earlier[-1:], *later[:1]]
        return _union([_recorded_at(row, r) for r in around]), len(around) == 2

    def open_names(self) -> frozenset[str]:
        """Names that a configuration or a model of some transformers release takes."""
        return _open_names()


def here() -> Stack:
    """The versions that are installed; those that the formulas were checked with for the rest."""
    installed = {name: _installed_version(name) for name in (*TESTED, *LIBRARIES)}
    return Stack(versions={**TESTED, **{name: v for name, v in installed.items() if v}})


@lru_cache(maxsize=64)
def _installed_version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def _installed_sources() -> Sources:
    folders: list[Path] = []
    for library in LIBRARIES:
        spec = find_spec(library)
        for place in spec.submodule_search_locations or () if spec is not None else ():
            folders.append(Path(place).parent)
    return Sources(tuple(dict.fromkeys(folders)))


@lru_cache(maxsize=256)
def _read_installed(key: str) -> Parameters | None:
    known = next((k for k in KNOWN if k.key == key), None)
    return _installed_sources().parameters(known) if known is not None else None


@lru_cache(maxsize=1)
def _recorded() -> dict[str, Any]:
    text = resources.files("willfit.data").joinpath("signatures.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


@lru_cache(maxsize=1)
def _open_names() -> frozenset[str]:
    text = resources.files("willfit.data").joinpath("transformers_names.json").read_text("utf-8")
    return frozenset(json.loads(text)["names"])


def _recorded_at(row: Mapping[str, Any], version: str) -> Parameters:
    unknown: Unknown = row["unknown"][version]

    def held(group: str) -> frozenset[str]:
        spans: Mapping[str, str] = row.get(group, {})
        return frozenset(name for name, span in spans.items() if _within(version, span))

    return Parameters(
        names=held("parameters"),
        unknown=unknown,
        unused=held("unused"),
        booleans=held("booleans"),
        on=held("on"),
        base=row.get("base", ""),
    )


@lru_cache(maxsize=4096)
def _within(version: str, span: str) -> bool:
    """Whether a release lies in ``4.41.2-``, ``-4.57.6``, ``4.41.2-4.57.6`` or "" (always)."""
    first, _, last = span.partition("-")
    wanted = release(version)
    return (not first or release(first) <= wanted) and (not last or wanted <= release(last))


def _union(found: list[Parameters]) -> Parameters | None:
    """Names that any of these takes; unused, Boolean or on is what all of them say."""
    if not found:
        return None
    first, *rest = found
    for one in rest:
        first = Parameters(
            names=first.names | one.names,
            unknown=one.unknown,
            unused=first.unused & one.unused,
            booleans=first.booleans & one.booleans,
            on=first.on & one.on,
            base=first.base or one.base,
        )
    return first


def _joined(own: Parameters, base: Parameters) -> Parameters:
    off = own.names - own.on
    return Parameters(
        names=own.names | base.names,
        unknown=own.unknown,
        unused=own.unused | base.unused,
        booleans=own.booleans | (base.booleans - own.names),
        on=own.on | (base.on - off),
        base=own.base,
    )
