"""Who watches a run: a seam for progress bars, plain lines, or nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from willfit.runner.result import StageReport


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """A stage under way."""

    name: str
    phase: str
    """``reading``, ``preparing``, ``loading``, ``computing``, ``releasing``."""
    done: int = 0
    """Rows that have their result, of this run or an earlier one."""
    rows: int = 0
    tokens_per_second: float = 0.0
    eta_seconds: float | None = None
    """Seconds to go; None before the first shard."""
    replicas: tuple[str, ...] = ()
    """What each does, in a word or two."""
    remaining_seconds: float | None = None
    """Seconds to the deadline; None without one."""


class Observer(Protocol):
    """What is told of a run while it lasts.

    The command line draws bars; `Silent` does nothing::

        class Printing:
            def progress(self, now): print(now.name, now.done, "of", now.rows)
            def note(self, text): print(text)
            def stage_ended(self, report): print(report.name, "done")
    """

    def progress(self, now: StageProgress) -> None:
        """Called about once a second."""

    def note(self, text: str) -> None:
        """A sentence that a person should see."""

    def stage_ended(self, report: StageReport) -> None:
        """A stage is over, its memory given back."""


class Silent:
    """Watches nothing."""

    def progress(self, now: StageProgress) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def stage_ended(self, report: StageReport) -> None:
        """Nothing."""
