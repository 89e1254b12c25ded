"""From the name a user typed to a ModelSpec: asks each source in turn, and explains a miss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from willfit.errors import InputError
from willfit.scenario.model import ModelSpec
from willfit.sources.heads import with_own_head
from willfit.sources.missing import not_found
from willfit.sources.source import Asked, Progress, Source, silent


@dataclass(frozen=True, kw_only=True)
class CatalogueSource(Source):
    """The embedded catalogue, which never touches the network."""

    asked: Asked = field(default_factory=Asked)

    def find(self, name: str) -> ModelSpec | None:
        """The checkpoint of that name or alias; a revision is the Hub's business."""
        if self.asked.revision is not None:
            return None
        from willfit.sources import catalogue

        found = catalogue.load(name)
        wanted = self.asked.library_name
        if found is not None and wanted not in (None, found.library):
            raise InputError(
                f"{found.id} is a {found.library} model, not a {wanted} one: leave "
                "--library-name out"
            )
        return found


def _local(asked: Asked) -> Source:
    from willfit.sources.local import LocalSource

    return LocalSource(asked=asked)


def _gguf(asked: Asked) -> Source:
    from willfit.sources.gguf_remote import RemoteGgufSource

    return RemoteGgufSource(asked=asked)


def _timm(asked: Asked) -> Source:
    from willfit.sources.timm import TimmSource

    return TimmSource(asked=asked)


def _catalogue(asked: Asked) -> Source:
    return CatalogueSource(asked=asked)


def _hub(asked: Asked) -> Source:
    from willfit.sources.hub import HubSource

    return HubSource(asked=asked)


SOURCES: Final[tuple[Callable[[Asked], Source], ...]] = (_local, _catalogue, _gguf, _timm, _hub)
"""The sources in the order in which they are asked; each is made only when its turn comes."""


def resolve(
    name: str,
    *,
    library_name: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    sources: Sequence[Source] | None = None,
) -> ModelSpec:
    """The model that ``name`` means: a path, GGUF, timm name, catalogue name or Hub id.

    ``sources`` replaces the usual ones. Raises `ModelNotFoundError` with the nearest names of
    the catalogue when nobody knows it, and other `InputError`s when a source knows it and cannot
    read it. A ``revision`` always means a Hub repository.
    """
    _check_name(name, library_name)
    asked = Asked(
        library_name=library_name,
        revision=revision,
        offline=offline,
        trust_remote_code=trust_remote_code,
        progress=progress or silent,
    )
    chain = (make(asked) for make in SOURCES) if sources is None else iter(sources)
    for source in chain:
        spec = source.find(name.strip())
        if spec is not None:
            return with_own_head(spec)
    raise not_found(name)


def _check_name(name: str, library_name: str | None) -> None:
    if not name.strip() or len(name) > 4096 or not name.isprintable():
        raise InputError(
            f"{name[:60]!r} is no model name: expected a catalogue name, a Hub id such as "
            "meta-llama/Meta-Llama-3-8B, a folder or a file"
        )
    if library_name not in (None, "transformers", "timm"):
        raise InputError(
            f"unknown library {library_name[:40]!r}: expected transformers or timm"
            if library_name
            else "the library name is empty: expected transformers or timm"
        )
