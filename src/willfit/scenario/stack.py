"""Stack: the versions and settings of the libraries that decide dtype, kernel and cache layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from willfit.errors import InputError

TESTED: Final[Mapping[str, str]] = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "accelerate": "1.15.0",
    "peft": "0.21.2",
    "bitsandbytes": "0.50.2",
    "trl": "1.16.0",
}
"""Versions that the formulas were checked against, and the defaults of a Stack."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Versions of torch, transformers, peft, bitsandbytes…, and the allocator's configuration."""

    versions: Mapping[str, str] = field(default_factory=lambda: dict(TESTED))
    alloc_conf: str = ""
    """``PYTORCH_CUDA_ALLOC_CONF``, for example ``expandable_segments:True``."""

    def version(self, library: str) -> tuple[int, ...]:
        """Release number of a library: ``(5, 23, 0)``; pre-release and local parts are dropped."""
        return release(self.versions[library])

    def at_least(self, library: str, wanted: str) -> bool:
        """Whether the library's version is ``wanted`` or later."""
        return self.version(library) >= release(wanted)

    @property
    def expandable_segments(self) -> bool:
        """Whether the allocator grows segments instead of taking new ones."""
        return "expandable_segments:true" in self.alloc_conf.lower().replace(" ", "")


@lru_cache(maxsize=256)
def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.13.0+cu130`` is (2, 13, 0)."""
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def parse_stack(text: str) -> dict[str, str]:
    """Versions of ``transformers=4.57,torch=2.6``; raises `InputError` on an unknown library."""
    versions: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        library, _, version = item.partition("=")
        library, version = library.strip().lower(), version.strip().lstrip("=")
        if library not in TESTED or not release(version):
            raise InputError(
                f"cannot read {item[:60]!r} in --stack: expected NAME=VERSION with NAME one of "
                f"{', '.join(TESTED)}, for example transformers=4.57,torch=2.6"
            )
        versions[library] = version
    return versions
