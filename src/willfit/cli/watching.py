"""A run's progress on stderr: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from willfit.report.run import stage_line
from willfit.runner.observer import Observer, Silent, StageProgress
from willfit.runner.result import StageReport

EVERY: Final = 30.0
"""Seconds between two plain lines: silent cells get killed."""


@contextmanager
def observer(*, quiet: bool = False) -> Iterator[Observer]:
    """What suits stderr."""
    if quiet:
        yield Silent()
        return
    if not sys.stderr.isatty():
        yield Lines()
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bars(bars)


class Lines:
    """A line whenever the phase changes, and every `EVERY` seconds."""

    def __init__(self) -> None:
        self._phase, self._told = ("", ""), 0.0

    def progress(self, now: StageProgress) -> None:
        """One line, unless the last was a moment ago."""
        phase, moment = (now.name, now.phase), time.monotonic()
        if phase != self._phase or moment - self._told >= EVERY:
            self._phase, self._told = phase, moment
            self.note(f"{now.name}: {words(now)}")

    def note(self, text: str) -> None:
        """The sentence."""
        print(f"willfit: {text}", file=sys.stderr, flush=True)

    def stage_ended(self, report: StageReport) -> None:
        """One line of what it came to."""
        self.note(stage_line(report))


class Bars:
    """One bar a stage, with its replicas below."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def progress(self, now: StageProgress) -> None:
        """Move the stage's bar."""
        task = self._tasks.get(now.name)
        if task is None:
            task = self._tasks[now.name] = self._bars.add_task(now.name, total=1, words="")
        self._bars.update(
            task, completed=now.done, total=max(1, now.rows), words=words(now, replicas=True)
        )

    def note(self, text: str) -> None:
        """Above the bars."""
        self._bars.console.print(f"willfit: {text}", highlight=False, markup=False)

    def stage_ended(self, report: StageReport) -> None:
        """Its bar becomes a line."""
        task = self._tasks.pop(report.name, None)
        if task is not None:
            self._bars.remove_task(task)
        self.note(stage_line(report))


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
        parts.append(f"{_clock(now.eta_seconds)} to go")
    if now.remaining_seconds is not None:
        parts.append(f"{_clock(now.remaining_seconds)} to the deadline")
    if replicas and now.replicas:
        parts.append("; ".join(now.replicas))
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
