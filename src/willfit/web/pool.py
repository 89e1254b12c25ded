"""Pool: worker processes that answer questions; one that takes too long is ended and replaced."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from willfit.web.answers import refused

TIME_LIMIT: Final = 30.0
"""Seconds for one answer; the slowest plan of the catalogue takes a tenth of it."""
PATIENCE: Final = 60.0
"""Seconds that a question waits for a worker before it is sent away."""
KEPT: Final = 256
"""Answers that are kept, of questions about the catalogue."""
MAX_KEPT: Final = 2**18
"""Bytes of an answer that is kept."""
Answer = dict[str, str]


class Worker:
    """One process; not shared between threads."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "willfit.web.worker"],
            cwd=folder,  # where no name of a model is a file, and no module is shadowed
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for the server, which then ends its workers
        )

    def ask(self, question: Mapping[str, Any], seconds: float) -> Answer | None:
        """The answer; None where the worker ended or took too long, and is ended."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            line = self._asked(json.dumps(question).encode() + b"\n")
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            self.end()
            return None
        found: Answer = json.loads(line)
        return found

    def _asked(self, question: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        return self._process.stdout.readline()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes


def once(
    question: Mapping[str, Any], environment: Mapping[str, str], folder: Path, seconds: float
) -> Answer | None:
    """The answer of a worker that is started for it and ended after it; None without one."""
    worker = Worker(environment, folder)
    try:
        return worker.ask(question, seconds)
    finally:
        worker.end()


class Pool:
    """Workers for one kind of question; `ask` may be called from any thread."""

    def __init__(self, size: int, environment: Mapping[str, str], folder: Path) -> None:
        self._environment, self._folder = dict(environment), folder
        self._idle: queue.Queue[Worker | None] = queue.Queue()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._closed = False
        self.seconds: deque[float] = deque(maxlen=10_000)
        """Time of each answer on a worker, for measurements."""
        self._all: list[Worker] = []
        for _ in range(size):
            self._idle.put(self._new())

    def ask(self, question: Mapping[str, Any], *, keep: bool = False) -> Answer:
        """The answer of the next free worker; ``keep`` where the same question has the same one."""
        key = json.dumps(question, sort_keys=True) if keep else ""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            worker = self._idle.get(timeout=PATIENCE)
        except queue.Empty:
            return refused("too many questions are waiting: try again in a minute")
        found = self._asked(worker, question)
        if found is None:
            return refused(
                f"no answer within {TIME_LIMIT:.0f} s and the memory allowed: ask for less"
            )
        if keep and len(found["html"]) <= MAX_KEPT:
            self._keep(key, found)
        return found

    def _asked(self, worker: Worker | None, question: Mapping[str, Any]) -> Answer | None:
        """The answer, with a worker in its place again, whatever happens."""
        began = time.monotonic()
        try:
            if worker is None or not worker.alive:
                worker = self._new()
            return worker.ask(question, TIME_LIMIT)
        finally:
            self.seconds.append(time.monotonic() - began)
            self._idle.put(worker if worker is not None and worker.alive else None)

    def _keep(self, key: str, found: Answer) -> None:
        with self._lock:
            self._kept[key] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def _new(self) -> Worker:
        worker = Worker(self._environment, self._folder)
        with self._lock:
            self._all = [*(one for one in self._all if one.alive), worker]
            if self._closed:
                worker.end()
        return worker

    def close(self) -> None:
        """End every worker."""
        with self._lock:
            self._closed = True
            workers = list(self._all)
        for worker in workers:
            worker.end()
