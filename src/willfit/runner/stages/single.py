"""One worker for one answer, on the CPU: preparing rows, or building the data."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

from willfit.errors import InputError, StageFailedError
from willfit.runner.context import Context
from willfit.runner.ending import host_kills, why_ended
from willfit.runner.processes import Ended, Said
from willfit.runner.protocol import Fatal, Job, Prepared, Progress


def run_single(
    context: Context, job: Job, log: Path, progress: Callable[[int], None] = lambda _: None
) -> Prepared:
    """Its answer; raises `InputError` or `StageFailedError` where it has none."""
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    kills = host_kills()
    worker = context.launcher.start(job, devices="", log=log, listener=said.put)
    try:
        answer: Prepared | None = None
        while not isinstance(event := said.get(), Ended):
            if isinstance(event, Fatal):
                raise refused(job.name, event, log)
            if isinstance(event, Progress):
                progress(event.done)
            if isinstance(event, Prepared):
                answer = event
        if answer is None:
            raise StageFailedError(
                f"{job.name}: the rows could not be prepared: {why_ended(event, kills)}; "
                f"its output is in {log}"
            )
        return answer
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
