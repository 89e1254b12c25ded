"""The time that a run has: shards stop going out before it is over, so that a file is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

CLOSING: Final = 30.0
"""Seconds kept for ending workers, ensembling and writing, where the deadline allows."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """Seconds from the run's start; None is no limit."""

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.began

    @property
    def remaining(self) -> float:
        """Seconds that stages may still take; infinite without a limit."""
        if self.seconds is None:
            return float("inf")
        return self.seconds - min(CLOSING, 0.1 * self.seconds) - self.elapsed

    def allows(self, seconds: float) -> bool:
        """Whether that much can still be done."""
        return self.remaining >= seconds
