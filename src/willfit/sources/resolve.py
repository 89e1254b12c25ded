"""The one seam: a name as people write it, asked of each source in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from willfit.errors import InputError, ModelNotFoundError
from willfit.scenario.model import ModelSpec

Progress = Callable[[str], None]
"""Receives a few words on what is being read; progress belongs to whoever shows it."""

_FILES: Final = (".json", ".safetensors", ".gguf", ".bin", ".pt", ".pth")
MAX_NAME: Final = 4096
"""Bound on a model's name."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to find, and how."""

    name: str
    library_name: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    progress: Progress = field(default=lambda _: None)


class Source(ABC):
    """Where a model's shape comes from.

    >>> FakeSource({"mine": spec}).find(Request(name="mine")) is spec
    True
    """

    @abstractmethod
    def find(self, request: Request) -> ModelSpec | None:
        """The model, or None where this source is not the one to ask.

        Raises `InputError` where it is, and the model cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class FakeSource(Source):
    """Models given by name, for tests and for callers with shapes of their own."""

    models: Mapping[str, ModelSpec]

    def find(self, request: Request) -> ModelSpec | None:
        """The model of that exact name."""
        return self.models.get(request.name)


class LocalSource(Source):
    """A folder, ``config.json``, ``.safetensors``, index or ``.gguf`` on this machine."""

    def find(self, request: Request) -> ModelSpec | None:
        """The model at that path, where the name is a path."""
        if not _is_path(request.name):
            return None
        from willfit.sources.local import read_path

        return read_path(Path(request.name).expanduser())


class CatalogueSource(Source):
    """The embedded catalogue; never touches the network."""

    def find(self, request: Request) -> ModelSpec | None:
        """The checkpoint of that name or alias; a revision is the Hub's business."""
        if request.revision is not None:
            return None
        from willfit.sources import catalogue

        name = request.name
        if request.library_name == "timm" and not name.startswith("timm/"):
            name = f"timm/{name}"
        found = catalogue.load(name)
        if found is not None and request.library_name not in (None, found.library):
            raise InputError(
                f"{found.id} is a {found.library} model, not a {request.library_name} one: "
                "leave --library-name out"
            )
        return found


class HubSource(Source):
    """A repository on the Hugging Face Hub: its config and file headers, never its weights."""

    def find(self, request: Request) -> ModelSpec | None:
        """The repository ``org/name``, or a GGUF file in one."""
        if "/" not in request.name:
            return None
        from willfit.sources.hub import read_hub

        return read_hub(request)


SOURCES: Final[tuple[Source, ...]] = (LocalSource(), CatalogueSource(), HubSource())
"""Asked in this order; the first that answers wins."""


def resolve(
    name: str,
    *,
    library_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    sources: Sequence[Source] = SOURCES,
) -> ModelSpec:
    """The model called ``name``; raises `ModelNotFoundError` naming the nearest known ones."""
    if not name.strip() or len(name) > MAX_NAME or "\x00" in name:
        raise InputError("a model's name is 1 to 4,096 characters: a Hub id, a path or a file")
    request = Request(
        name=name.strip(),
        library_name=library_name,
        revision=revision,
        trust_remote_code=trust_remote_code,
        progress=progress or (lambda _: None),
    )
    for source in sources:
        found = source.find(request)
        if found is not None:
            return found
    raise ModelNotFoundError(not_found(name))


def not_found(name: str) -> str:
    """The sentence for a model that no source knows."""
    from willfit.sources.catalogue import nearest

    near = " or ".join(nearest(name, 3))
    return (
        f"no model called {name[:80]!r}: did you mean {near}? "
        "A Hub id is org/name, a path starts with ./ or /"
    )


def _is_path(name: str) -> bool:
    if name.startswith(("./", "../", "/", "~")) or name in (".", ".."):
        return True
    if "://" in name:
        return False
    if name.endswith(_FILES) and name.count("/") != 2:
        return True
    try:
        return Path(name).exists()
    except OSError:
        return False
