"""Diagnosis: what a text tells, what was behind it, and what to change."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.doctor.agreement import Agreement
from willfit.doctor.causes.cause import Cause
from willfit.doctor.edits import OwnLine
from willfit.doctor.report import Report


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One thing to change, with what it saves in this case."""

    id: str
    """Of a change of the planner (``gradient_checkpointing``), or of what only a person can do
    (``fresh_process``)."""
    title: str
    saves_bytes: int | None
    """Estimate before less estimate after, after the remedies before it of the same plan, or an
    amount of the message; None where nothing tells."""
    snippet: str = ""
    """Lines of code or of a shell."""
    quality: str = "none"
    """What it costs of the result: ``none``, ``slight`` or ``real``."""
    relative_time: float | None = None
    """Time of a sample with the plan that it belongs to, against now."""
    plan: int | None = None
    """Remedies of the same number belong together and are applied in this order."""
    own_lines: tuple[OwnLine, ...] = ()
    """Where it goes in the user's own code, where that was given."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One report with its cause."""

    report: Report
    cause: Cause
    changes: tuple[Remedy, ...] = ()
    """The first is what to do first."""
    agreement: Agreement | None = None
    """The estimate beside the message, where a scenario was given and the numbers are there."""
    notes: tuple[str, ...] = ()
    """What was assumed, and why nothing fits where nothing does."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a text came to; no cases where it reports no failure."""

    cases: tuple[Case, ...] = ()
