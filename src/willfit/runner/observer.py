"""Who watches a run: a seam for progress bars, plain lines, or nobody."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from willfit.runner.result import StageReport

EVERY: Final = 30.0
"""Seconds between two plain lines: notebook cells that print nothing get killed."""


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


class Lines:
    """Lines on stderr: whenever the phase changes, and every `EVERY` seconds."""

    def __init__(self, describe: Callable[[StageReport], str] | None = None) -> None:
        self._phase, self._told = ("", ""), 0.0
        self._describe = describe or _done

    def progress(self, now: StageProgress) -> None:
        """One line, unless the last was a moment ago."""
        phase, moment = (now.name, now.phase), time.monotonic()
        if phase != self._phase or moment - self._told >= EVERY:
            self._phase, self._told = phase, moment
            self.note(f"{now.name}: {words(now)}")

    def note(self, text: str) -> None:
        """The sentence."""
        sys.stderr.write(f"willfit: {text}\n")
        sys.stderr.flush()

    def stage_ended(self, report: StageReport) -> None:
        """One line of what it came to."""
        self.note(self._describe(report))


def _done(report: StageReport) -> str:
    released = report.release.line() if report.release is not None else ""
    return f"{report.name} is done: {report.num_rows:,} rows{', ' if released else ''}{released}"


def words(now: StageProgress, *, replicas: bool = False) -> str:
    """What a stage does, how far it is, and how long it will take."""
    if now.phase == "reading":
        return f"reading the model's files, {now.done} %"
    if now.phase in ("preparing", "releasing"):
        done = f", {now.done:,} rows" if now.done else ""
        return {"preparing": f"making tokens{done}", "releasing": "giving memory back"}[now.phase]
    parts = [f"{now.phase}, {now.done:,} of {now.rows:,} rows"]
    if now.tokens_per_second:
        parts.append(f"{now.tokens_per_second:,.0f} tokens/s")
    if now.eta_seconds is not None:
        parts.append(f"{clock(now.eta_seconds)} to go")
    if now.remaining_seconds is not None:
        parts.append(f"{clock(now.remaining_seconds)} to the deadline")
    if replicas and now.replicas:
        parts.append("; ".join(now.replicas))
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """``8:29:11``."""
    minutes, rest = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
