"""Hint: one thing to do about a cause, for the families and stages that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from willfit.doctor.report import Report, Stage

Saving = Callable[[Report], "int | None"]
"""Bytes that it frees, from the numbers of the message."""
Fitted = Callable[[Report], "str | None"]
"""The snippet with a number that the message tells; None where it tells none."""


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A row of the table."""

    causes: frozenset[str]
    id: str
    title: str
    snippet: str
    families: tuple[str, ...] = ()
    """Beginnings of the families that it is for; empty is all."""
    stages: frozenset[Stage] = frozenset()
    """Stages that it is for; empty is all."""
    not_families: tuple[str, ...] = ()
    saves: Saving | None = None
    fitted: Fitted | None = None
    quality: str = "none"
    not_fields: tuple[str, ...] = ()
    """Fields whose presence makes it wrong: layers taken off the GPU go to a host that is full."""

    def is_for(self, cause: str, report: Report) -> bool:
        """Whether it is something to do about this report."""
        if cause not in self.causes or report.family.startswith(self.not_families or ("\0",)):
            return False
        if any(name in report.fields for name in self.not_fields):
            return False
        in_family = not self.families or report.family.startswith(self.families)
        return in_family and (not self.stages or report.context.stage in self.stages)
