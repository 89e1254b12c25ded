"""One worker for one answer, on the CPU: preparing rows, or building the data."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from willfit.errors import InputError, StageFailedError
from willfit.runner.context import Context
from willfit.runner.ending import host_kills, why_ended
from willfit.runner.processes import Ended, Said
from willfit.runner.protocol import Fatal, Heartbeat, Job, Prepared, Progress
from willfit.runner.schedule import ATTEMPTS

TICK: Final = 0.5
"""Seconds after which the time is looked at although nothing happened."""


def run_single(
    context: Context, job: Job, log: Path, progress: Callable[[int], None] = lambda _: None
) -> Prepared:
    """Its answer; raises `InputError` or `StageFailedError` where it has none.

    A worker that dies, or shows no progress for the stage's ``load_timeout``, is followed by
    another, `ATTEMPTS` in all.
    """
    for _ in range(ATTEMPTS):
        answer = _answer(context, job, log, progress)
        if isinstance(answer, Prepared):
            return answer
        context.observer.note(f"{job.name}: the worker that prepares rows ended: {answer}")
    raise StageFailedError(
        f"{job.name}: the rows could not be prepared: {answer}; its output is in {log}"
    )


def _answer(
    context: Context, job: Job, log: Path, progress: Callable[[int], None]
) -> Prepared | str:
    """One worker's answer, or why it gave none."""
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    kills, limit, alive = host_kills(), job.stage.get("load_timeout"), time.monotonic()
    worker = context.launcher.start(job, devices="", log=log, listener=said.put)
    answer: Prepared | None = None
    try:
        while True:
            try:
                event = said.get(timeout=TICK)
            except queue.Empty:
                if limit is not None and time.monotonic() - alive > limit:
                    return f"it showed no progress for {limit:.0f} s"
                continue
            if isinstance(event, Fatal):
                raise refused(job.name, event, log)
            if isinstance(event, Ended):
                return answer if answer is not None else why_ended(event, kills)
            if isinstance(event, Prepared):
                answer = event
            if isinstance(event, Progress):
                progress(event.done)
            if not isinstance(event, Heartbeat):
                alive = time.monotonic()
    finally:
        worker.end(grace=0)


def refused(name: str, event: Fatal, log: Path) -> InputError | StageFailedError:
    """The error of a worker that said why it cannot go on."""
    if event.kind == "input":
        return InputError(event.message)
    if event.kind == "bug":
        return StageFailedError(f"stage {name} failed: {event.message}; its output is in {log}")
    if event.kind == "memory":
        return StageFailedError(
            f"stage {name} does not fit: {event.message}; `willfit plan` says what would make it "
            f"fit, its output is in {log}"
        )
    return StageFailedError(f"stage {name} stopped, what it computed is kept: {event.message}")
