"""What to do where no scenario is known, or where no setting of one helps: rows by cause."""

from __future__ import annotations

from typing import Final

from willfit.doctor.advice.hints import host, inference, placement, process, serving, training
from willfit.doctor.advice.hints.hint import Hint

__all__ = ["HINTS", "Hint"]

HINTS: Final[tuple[Hint, ...]] = (
    *process.HINTS,
    *placement.HINTS,
    *host.HINTS,
    *serving.HINTS,
    *training.HINTS,
    *inference.HINTS,
)
"""In the order in which they are shown."""
