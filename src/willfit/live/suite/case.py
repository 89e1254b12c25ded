"""A suite's cases: what each runs, what it settles, and how long it may take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from willfit.errors import InputError

FOLDER: Final = Path(__file__).resolve().parents[2] / "data" / "suites"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement."""

    name: str
    settles: str = ""
    """The question that it answers, in one sentence."""
    probe: str = ""
    """Name of a probe; "" for a scenario."""
    arguments: str = ""
    """What ``willfit estimate`` is given for it, the GPU aside."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the workload that have no flag: ``{"training.lora.use_dora": true}``."""
    layers: int | None = None
    """Layers of a model that is shortened on both sides; None keeps all."""
    tiny: bool = False
    """Whether the config's sizes are small ones, for a run on a CPU."""
    disk: bool = False
    """Whether the weights come from a checkpoint on disk."""
    history: bool = False
    """Whether to keep what is alive at the peak of the second step."""
    seconds: float = 20.0
    """How long it is expected to take, libraries imported: of a record or of the time formulas."""
    limit: float = 90.0
    """Seconds after which it is ended."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Cases in the order of their worth."""

    name: str
    title: str
    gpu: str
    """The catalogue's card for which the scenarios are made; "" for none."""
    device: str
    """``cuda`` or ``cpu``."""
    budget_seconds: float
    needs: tuple[str, ...]
    """Packages that its cases import beside what measuring itself needs."""
    cases: tuple[Case, ...]

    def named(self, parts: tuple[str, ...]) -> tuple[Case, ...]:
        """Cases whose name contains one of these; raises `InputError` where none does."""
        found = tuple(
            case for case in self.cases if not parts or any(part in case.name for part in parts)
        )
        if not found:
            raise InputError(
                f"no case of suite {self.name} has {' or '.join(parts)[:80]!r} in its name: "
                f"there are {', '.join(case.name for case in self.cases[:6])}…"
            )
        return found


def suites() -> tuple[str, ...]:
    """Names of those that there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.jsonl")))


@lru_cache(maxsize=8)
def load_suite(name: str) -> Suite:
    """The suite of that name; raises `InputError` where there is none."""
    if name not in suites():
        raise InputError(f"there is no suite {name[:40]!r}: there are {', '.join(suites())}")
    head, *lines = (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()
    facts = json.loads(head)
    facts["needs"] = tuple(facts.get("needs", ()))
    cases = tuple(Case(**json.loads(line)) for line in lines)
    return Suite(name=name, cases=cases, **facts)
