"""The seam of all sources: a name goes in, a spec or None comes out; and a fake for tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from willfit.scenario.model import ModelSpec

Progress = Callable[[str], None]
"""Observer of work that may take over a second; gets one short line each time."""


def silent(_: str) -> None:
    """The observer that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user said besides the name."""

    library_name: str | None = None
    """``transformers`` or ``timm``; None finds out."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository; None is its main branch."""
    offline: bool = False
    """Never touch the network: caches and files alone."""
    trust_remote_code: bool = False
    """Whether code of the repository may run (only the trace level ever runs any)."""
    progress: Progress = silent


class Source(ABC):
    """One place where a model's shape comes from.

    A source answers for the names that are its own, None for all others, and raises an
    `InputError` for one of its own that cannot be read:

        class Shelf(Source):
            def find(self, name: str) -> ModelSpec | None:
                return self.specs.get(name)
    """

    @abstractmethod
    def find(self, name: str) -> ModelSpec | None:
        """The model called ``name``, None if this source does not know such names."""


@dataclass(frozen=True, kw_only=True)
class FakeSource(Source):
    """Knows the specs it was given, for tests of what lies above; remembers what it was asked."""

    specs: Mapping[str, ModelSpec] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def find(self, name: str) -> ModelSpec | None:
        """The spec under that very name."""
        self.asked.append(name)
        return self.specs.get(name)
