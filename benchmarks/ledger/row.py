"""What goes into the ledger: a published row, how willfit expresses it, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.ledger.moments import Moment
from willfit.results import Estimate
from willfit.scenario import Scenario, Stack
from willfit.scenario.stack import TESTED

PublishedRow = Mapping[str, Any]
"""One line of a ``.jsonl`` file in the form of ``shared/measured``."""

Reading = Callable[[Estimate], int]
"""Which amount of an estimate a measurement is compared with."""


@dataclass(frozen=True, kw_only=True)
class Expressed:
    """A measurement as a scenario and the amount to read off its estimate."""

    kind: str
    """What was measured, in the source's words."""
    scenario: Scenario
    reading: Reading
    moment: Moment | None = None
    """Moment at which the source read its counter; None where it is a peak, as `reading` has it."""
    unknown_bytes: tuple[int, int] = (0, 0)
    """Smallest and largest effect of a named unknown that no setting expresses."""
    low_scenario: Scenario | None = None
    """The scenario with every named unknown at its small end; None where nothing is unknown."""
    high_scenario: Scenario | None = None


@dataclass(frozen=True, kw_only=True)
class NotExpressed:
    """A measurement that cannot be expressed, and why."""

    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A measurement beside its estimate."""

    id: str
    source: str
    tier: str
    task: str
    level: str
    kind: str
    measured_bytes: int
    estimated_bytes: int | None
    low_bytes: int | None
    high_bytes: int | None
    reason: str | None
    """Why there is no estimate; None where there is one."""

    @property
    def error(self) -> float | None:
        """(nearest bound − measured) / measured; 0 inside the range; None without an estimate."""
        if self.estimated_bytes is None or self.measured_bytes <= 0:
            return None
        low = self.estimated_bytes if self.low_bytes is None else self.low_bytes
        high = self.estimated_bytes if self.high_bytes is None else self.high_bytes
        nearest = min(max(self.measured_bytes, low), high)
        if low == high:
            nearest = self.estimated_bytes
        return (nearest - self.measured_bytes) / self.measured_bytes


EARLIER: Final = Stack(versions={**TESTED, "transformers": "4.37.2", "bitsandbytes": "0.43.1"})
"""Releases from before the great savings (tables of cos and sin in every layer, float32 logits of
the whole prompt, inputs kept by 4-bit products): one end where a source of 2024 does not record
what it ran."""

Importer = Callable[[PublishedRow], Iterator["Expressed | NotExpressed"]]
"""Maps a published row to one result per measured kind; guesses nothing."""
