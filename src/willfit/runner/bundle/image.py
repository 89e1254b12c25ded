"""What a notebook's image is known to have: ``data/kaggle_image.json``, with source and date."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).resolve().parents[2] / "data" / "kaggle_image.json"


@dataclass(frozen=True, kw_only=True)
class Image:
    """Kaggle's image as it was published; what an image has is asked again where it runs."""

    python: str
    """Version of Python, such as ``3.12``."""
    glibc: tuple[int, int]
    packages: Mapping[str, str] = field(repr=False)
    """Version by normal name; "" where none is known."""
    checked: str
    """Month in which this was last held against its sources."""
    sources: Mapping[str, str]

    def has(self, name: str) -> bool:
        """Whether a package is in the image."""
        return normal(name) in self.packages


@lru_cache(maxsize=1)
def kaggle_image() -> Image:
    """The image of Kaggle's GPU notebooks; a figure without a source does not load."""
    row = json.loads(FILE.read_bytes())
    missing = [name for name in ("packages", "python", "glibc") if not row["sources"].get(name)]
    if missing or not row.get("checked"):
        raise ValueError(f"{FILE.name}: no source for {', '.join(missing) or 'its date'}")
    major, minor = map(int, row["glibc"].split("."))
    return Image(
        python=row["python"],
        glibc=(major, minor),
        packages=row["packages"],
        checked=row["checked"],
        sources=row["sources"],
    )


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
