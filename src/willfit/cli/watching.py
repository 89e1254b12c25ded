"""A run's progress on stderr: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from willfit.report.run import stage_line
from willfit.runner.observer import Lines, Observer, Silent, StageProgress, words
from willfit.runner.result import StageReport


@contextmanager
def observer(*, quiet: bool = False) -> Iterator[Observer]:
    """What suits stderr."""
    if quiet:
        yield Silent()
        return
    if not sys.stderr.isatty():
        yield Lines(stage_line)
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bars(bars)


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
