"""Comparison: sides, each with its estimate, and how each differs from the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from willfit.live.beside import Line
from willfit.live.measurement import Measurement
from willfit.results import Estimate, Verdict


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One side."""

    label: str
    """As the user gave it: a model, settings, or the name of a file."""
    estimate: Estimate | None = None
    """None where there is no number, or where a saved measurement is all there is."""
    reason: str | None = None
    """Why there is no estimate, or why the measured run failed; None where neither is so."""
    repeats: tuple[Measurement, ...] = ()
    """Every measured run of this side, in the order in which they ran."""
    lines: tuple[Line, ...] = ()
    """Of the measurement: its peaks beside the estimates of what was run."""
    saved: Mapping[str, Any] | None = None
    """The contract's object as it was read, where the side is a file."""

    @property
    def measurement(self) -> Measurement | None:
        """The run with the median peak; a failed one only where all failed; None without any."""
        from willfit.comparing.measured import median_run

        return median_run(self.repeats)

    @property
    def verdict(self) -> Verdict | None:
        """The estimate's; None without a GPU or an estimate."""
        return None if self.estimate is None else self.estimate.verdict

    @property
    def trusted(self) -> bool:
        """Whether there is a number that can be relied on."""
        if self.estimate is None:
            return self.measurement is not None and not self.measurement.failure
        return not self.estimate.unsupported


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One component at both peaks."""

    name: str
    a_bytes: int
    b_bytes: int

    @property
    def change_bytes(self) -> int:
        """From the first side to the other."""
        return self.b_bytes - self.a_bytes


@dataclass(frozen=True, kw_only=True)
class Part:
    """One setting that two sides do not share."""

    path: str
    """Where a scenario has it: ``workload.inference.batch_size``."""
    title: str
    """What a user calls it: ``--batch-size``."""
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One setting changed on the way from the first side to the other, and what that moved.

    A setting that makes no sense without the next one is changed together with it.
    """

    parts: tuple[Part, ...]
    change_bytes: int
    """Device bytes at the peak; the steps add up to the difference of the two estimates."""
    components: tuple[Moved, ...]
    """Those that moved, the largest movement first."""

    @property
    def has_effect(self) -> bool:
        """Whether anything moved."""
        return bool(self.components)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How one side differs from the first."""

    index: int
    """Which side it is, from 1."""
    components: tuple[Moved, ...]
    """At both peaks, the largest movement first; they add up to change_bytes."""
    change_bytes: int
    steps: tuple[Step, ...] = ()
    """By formula, from the first side to this one; empty where a side has no formula."""
    reasons: tuple[str, ...] = ()
    """Why the components differ, with the arithmetic."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The sides, what they share and what they do not."""

    entries: tuple[Compared, ...]
    shared: str = ""
    """Settings that all sides were given, as a user writes them."""
    differences: tuple[Difference, ...] = ()
    """Of every side but the first against the first, where both have an estimate."""
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What decides the memory of a model, by its name, a value for each side."""
    same_components: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the components that are equal in all sides."""
    same_facts: Mapping[str, str] = field(default_factory=dict)
    """Facts of the models that are equal in all."""
    same_assumptions: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    """What makes the sides hard to compare."""

    @property
    def fits(self) -> bool | None:
        """Whether every side fits; None where one has no verdict."""
        verdicts = [entry.verdict for entry in self.entries]
        if "does_not_fit" in verdicts:
            return False
        return None if None in verdicts else True
