"""Places where a job can run: one row of ``data/places.json`` each, every figure with a source."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from willfit.devices.parse import parse_machine
from willfit.errors import InputError
from willfit.scenario.machine import Gpu

FILE: Final = Path(__file__).resolve().parents[1] / "data" / "places.json"

Kind = Literal["notebook", "own", "rented"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A machine that people can get, and on what terms."""

    name: str
    """What the command line calls it: ``kaggle-t4x2``."""
    title: str
    """What people call it: ``Kaggle T4×2``."""
    provider: str
    kind: Kind
    gpus: tuple[Gpu, ...]
    """Empty where there is none that torch runs on; `why_not` then says so."""
    why_not: str | None = None
    """Why no such job runs there at all."""
    free: bool = False
    """Whether an hour costs nothing."""
    ram_bytes: int | None = None
    """None where it is what one buys, or nobody told."""
    disk_bytes: int | None = None
    saved_bytes: int | None = None
    """What is kept after a session; None where all is, or nobody told."""
    session_hours: float | None = None
    """After so long a session ends; None where it does not."""
    weekly_hours: float | None = None
    resumable: bool = True
    """Whether another session may go on where one ended (a submission has one)."""
    internet: bool = True
    """Whether a running job reaches the network."""
    checked: str = ""
    """Month in which the row was last held against its sources."""
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source of each figure by field name, with its date where it has one."""


def all_places() -> tuple[Place, ...]:
    """Every place, in the file's order: free ones first, then one's own, then rented ones."""
    return _load()


def find_places(names: Sequence[str]) -> tuple[Place, ...]:
    """The places of these names (or those of a provider); raises `InputError` on others."""
    found: list[Place] = []
    for name in names:
        wanted = name.strip().lower()
        these = [p for p in all_places() if wanted in (p.name, p.title.lower(), p.provider.lower())]
        if not these:
            known = [place.name for place in all_places()]
            near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
            raise InputError(
                f"unknown place {name[:60]!r}: "
                f"{'did you mean ' + ' or '.join(near) + '? ' if near else ''}"
                f"known are {', '.join(known)}"
            )
        found += [place for place in these if place not in found]
    return tuple(found)


@lru_cache(maxsize=1)
def _load() -> tuple[Place, ...]:
    places = tuple(_place(row) for row in json.loads(FILE.read_bytes()))
    if len({place.name for place in places}) < len(places):
        raise ValueError(f"two places of one name in {FILE.name}")
    return places


_SOURCED: Final = {
    "gpus": "gpus", "why_not": "why_not", "ram_gb": "ram", "ram_bytes": "ram", "disk_gb": "disk",
    "saved_gb": "saved", "session_hours": "session_hours", "weekly_hours": "weekly_hours",
    "internet": "internet",
}  # fmt: skip


def _place(row: Mapping[str, Any]) -> Place:
    """One row; a figure without a source does not load."""
    missing = [
        key for key, source in _SOURCED.items() if key in row and not row["sources"].get(source)
    ]
    if missing or not row.get("checked"):
        raise ValueError(f"{row['name']}: no source for {', '.join(missing) or 'its date'}")
    if not row.get("gpus") and not row.get("why_not"):
        raise ValueError(f"{row['name']}: no GPU, and no reason why not")
    return Place(
        name=row["name"],
        title=row["title"],
        provider=row["provider"],
        kind=row["kind"],
        gpus=parse_machine(row["gpus"]).gpus if row.get("gpus") else (),
        why_not=row.get("why_not"),
        free=bool(row.get("free")),
        ram_bytes=row.get("ram_bytes") or _bytes(row.get("ram_gb")),
        disk_bytes=_bytes(row.get("disk_gb")),
        saved_bytes=_bytes(row.get("saved_gb")),
        session_hours=row.get("session_hours"),
        weekly_hours=row.get("weekly_hours"),
        resumable=row.get("resumable", True),
        internet=row["internet"],
        checked=row["checked"],
        notes=tuple(row.get("notes", ())),
        sources=row["sources"],
    )


def _bytes(gigabytes: float | None) -> int | None:
    """Bytes of an amount in GB of 10⁹, as providers count."""
    return None if gigabytes is None else round(gigabytes * 10**9)
