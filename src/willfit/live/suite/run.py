"""A suite's cases one after the other: a process each, started ahead, a line each, resumable."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from willfit.errors import InputError
from willfit.live.measure import num_gpus
from willfit.live.measured.process import START_LIMIT, Worker
from willfit.live.rows import append_row, read_rows, require_writable
from willfit.live.suite.case import Case
from willfit.scenario import Scenario

AHEAD: Final = 3
"""Processes that import their libraries while a case runs, at most; fewer on few cores."""
CORES_EACH: Final = 2
"""Cores for each of them: importing torch and transformers takes one, and the run itself too."""
GRACE: Final = 15.0
"""Seconds past the end of the budget that a case which has begun is given."""
LOOK_LIMIT: Final = 60.0
"""Seconds that CUDA may take to say that it is there; a driver takes some seconds, a broken one
for ever."""
Answer = Mapping[str, Any]
"""What a worker says, with ``seconds``."""


class Watching(Protocol):
    """What is told of a suite's progress."""

    def begins(self, case: Case, number: int, total: int) -> None:
        """A case begins."""

    def ended(self, row: Mapping[str, Any]) -> None:
        """A row is written."""

    def left_out(self, cases: Sequence[Case]) -> None:
        """The time that was given is over."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A case with what is needed to run it."""

    case: Case
    scenario: Scenario | None
    """None for a probe."""
    refused: str = ""
    """Why there is no scenario of it here."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What came of it."""

    ran: int
    left: tuple[str, ...]
    """Names of the cases that have no row yet."""


def run_suite(
    works: Sequence[Work],
    *,
    device: str,
    out: Path,
    budget: float,
    row_of: Callable[[Work, Answer], Mapping[str, Any]],
    watching: Watching,
) -> Tally:
    """Run the cases that have no row in ``out``, as long as the time lasts.

    Raises `InputError` where the device is not there.
    """
    require_writable(out)
    done = done_in(out)
    waiting = deque(work for work in works if work.case.name not in done)
    run = _Run(device, out, row_of, time.monotonic() + budget)
    try:
        return run.all(waiting, watching, total=len(works))
    finally:
        run.close()


def done_in(out: Path) -> set[str]:
    """Names of the cases that have a row."""
    return {str(row["name"]) for row in read_rows(out) if "name" in row}


class _Run:
    def __init__(
        self,
        device: str,
        out: Path,
        row_of: Callable[[Work, Answer], Mapping[str, Any]],
        deadline: float,
    ) -> None:
        self._device, self._out, self._row_of = device, out, row_of
        self._deadline = deadline
        self._workers: dict[str, Worker] = {}
        self._ahead = min(AHEAD, max(1, (os.cpu_count() or 1) // CORES_EACH))

    def all(self, waiting: deque[Work], watching: Watching, *, total: int) -> Tally:
        ran = 0
        late: list[Work] = []
        began = total - len(waiting)
        while waiting:
            work = waiting.popleft()
            if work.case.seconds > self._deadline - time.monotonic():
                late.append(work)
                continue
            for each in [work, *list(waiting)[: self._ahead]]:
                self._start(each)
            watching.begins(work.case, began + ran + len(late) + 1, total)
            answer = self._one(work)
            if answer.get("kind") == "not_done" and self._cut():
                late.append(work)
                continue
            row = self._row_of(work, answer)
            append_row(self._out, row)
            watching.ended(row)
            ran += 1
        if late:
            watching.left_out([work.case for work in late])
        return Tally(ran=ran, left=tuple(work.case.name for work in late))

    def _start(self, work: Work) -> None:
        name = work.case.name
        if name in self._workers or work.refused:
            return
        scenario = work.scenario
        if scenario is None:
            self._workers[name] = Worker(libraries=("torch",))
            return
        self._workers[name] = Worker(
            num_gpus=num_gpus(scenario), alloc_conf=scenario.stack.alloc_conf
        )

    def _one(self, work: Work) -> Answer:
        """The answer to one case; its process is ended whatever comes."""
        if work.refused:
            return {"error": work.refused, "kind": "refused", "seconds": 0.0}
        with self._workers.pop(work.case.name) as worker:
            looked = self._looked(worker)
            if looked.get("kind") == "refused":
                raise InputError(f"{looked['error']}; --suite cpu runs small models there")
            began = time.monotonic()
            limit = min(work.case.limit, self._left())
            answer = looked if "error" in looked else worker.ask(_job(work, self._device), limit)
            return {**answer, "seconds": time.monotonic() - began}

    def _looked(self, worker: Worker) -> Answer:
        """The device that is there, once the libraries are imported; else why there is none."""
        ready = worker.ready(min(START_LIMIT, self._left()))
        if "error" in ready:
            return ready
        return worker.ask({"what": "look", "device": self._device}, min(LOOK_LIMIT, self._left()))

    def _left(self) -> float:
        """Seconds until a case that has begun is ended for the budget's sake."""
        return max(0.1, self._deadline + GRACE - time.monotonic())

    def _cut(self) -> bool:
        """Whether the budget ended the case, not its own limit: it is tried again, then."""
        return time.monotonic() >= self._deadline + GRACE

    def close(self) -> None:
        """End the processes that were started ahead and not needed."""
        for worker in self._workers.values():
            worker.close()


def _job(work: Work, device: str) -> dict[str, Any]:
    case = work.case
    if case.probe:
        return {"probe": case.probe, "device": device, "tiny": case.tiny}
    return {
        "scenario": work.scenario,
        "device": device,
        "history": case.history,
        "saved": case.disk,
    }
