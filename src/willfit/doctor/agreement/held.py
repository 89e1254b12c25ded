"""Held: what a process had on its GPU when it failed, as far as the message tells."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.doctor.causes.numbers import Numbers
from willfit.doctor.report import Report


@dataclass(frozen=True, kw_only=True)
class Held:
    """Amounts of one message, in bytes."""

    allocated_bytes: int
    """Live tensors."""
    tried_bytes: int
    """What was asked for on top."""
    total_bytes: int | None
    free_bytes: int | None

    @property
    def needed_bytes(self) -> int:
        """What live tensors would have come to: the run's peak is this or more."""
        return self.allocated_bytes + self.tried_bytes


def held_of(report: Report) -> Held | None:
    """None where the message does not say how much was allocated."""
    numbers = Numbers(report)
    if numbers.allocated is None:
        return None
    return Held(
        allocated_bytes=numbers.allocated,
        tried_bytes=numbers.of("tried_bytes") or 0,
        total_bytes=numbers.total,
        free_bytes=numbers.free,
    )
