"""A worker as the driver holds it: a process of its own session, two pipes, and a sure end."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import site
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psutil  # type: ignore[import-untyped]  # it has no stubs

import willfit
from willfit.runner.protocol import MARK, Command, Event, Job, Stop, event_of

GRACE: Final = 10.0
"""Seconds that a worker has to leave by itself."""
AFTER_TERM: Final = 3.0
"""Seconds after SIGTERM until SIGKILL."""
_LONGEST_LINE: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A worker's process is gone and reaped; its last event is before this one."""

    code: int
    """Exit code; −9 where SIGKILL ended it."""
    log: str
    """The end of what it printed."""
    why: str = ""
    """Why, in words, where that was seen elsewhere (on another node)."""
    lost: bool = False
    """Whether it is gone with its node: no fault of its own, nor of what it computed."""


class PlaceLostError(Exception):
    """Where a worker was to start there is nothing any more; the message says what was lost."""


Said = Event | Ended
Listener = Callable[[Said], None]


class Worker(Protocol):
    """A worker that runs somewhere: as a process here (`LocalWorker`) or on another node."""

    def send(self, command: Command) -> bool:
        """Whether the command could be given: a worker that is gone takes none."""

    def end(self, grace: float = GRACE) -> None:
        """Its process and all below it are gone when this returns."""


class Launcher(Protocol):
    """What starts workers: one method, so that where they run is a choice.

    `LocalLauncher` starts a process beside the driver; the Ray backend starts the same process
    through an actor on another node.
    """

    def start(self, job: Job, *, devices: str | None, log: Path, listener: Listener) -> Worker:
        """A worker with the job.

        ``devices`` is its ``CUDA_VISIBLE_DEVICES``, or what `Devices` calls them there (None leaves
        the variable as it is); ``listener`` is called from another thread with each event and,
        last, with `Ended`. Raises `PlaceLostError` where those GPUs are gone with their node.
        """


@dataclass(frozen=True, kw_only=True)
class LocalLauncher:
    """Workers as processes of this machine."""

    folder: Path
    """Where job files go."""
    held: Sequence[int] = ()
    """File descriptors that workers inherit: the run's lock, so that it is free only when the last
    of them is gone."""
    extra_env: Mapping[str, str] | None = None

    def start(self, job: Job, *, devices: str | None, log: Path, listener: Listener) -> Worker:
        """A process with the job; its output goes to ``log``."""
        return LocalWorker(
            job, devices=devices, log=log, listener=listener, held=self.held,
            folder=self.folder, extra_env=self.extra_env or {},
        )  # fmt: skip


class LocalWorker:
    """A worker process, its pipes, and the thread that reads its events."""

    def __init__(
        self, job: Job, *, devices: str | None, log: Path, listener: Listener,
        held: Sequence[int], folder: Path, extra_env: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._log, self._listener = log, listener
        self._token = uuid.uuid4().hex
        path = folder / f"job-{job.kind}-{self._token[:12]}.json"
        path.write_bytes(job.line())
        commands, self._commands = os.pipe()
        self._events, events = os.pipe()
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "willfit.worker", str(path), str(commands), str(events)],
                    env=_environment(devices, self._token, extra_env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(commands, events, *held),
                )
        except OSError:
            os.close(self._commands)
            os.close(self._events)
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(commands)
            os.close(events)
        self._path, self._lock, self._ending = path, threading.Lock(), threading.Lock()
        self._thread = threading.Thread(
            target=self._read, name=job.name, daemon=True
        )
        self._thread.start()

    @property
    def pid(self) -> int:
        """Process id, which is the session's and the group's too."""
        return self._process.pid

    def send(self, command: Command) -> bool:
        """Write one line to the worker; False where it is gone."""
        with self._lock:
            if self._commands < 0:
                return False
            try:
                os.write(self._commands, command.line())
            except BrokenPipeError:
                return False
        return True

    def end(self, grace: float = GRACE) -> None:
        """Ask, wait, SIGTERM, SIGKILL, reap, and sweep what is left below it."""
        with self._ending:
            below = _descendants(self._process.pid)
            if grace > 0:
                self.send(Stop())
            self._close()
            for number, seconds in ((None, grace), (signal.SIGTERM, AFTER_TERM)):
                if number is not None:
                    self._signal_group(number)
                try:
                    self._process.wait(timeout=max(seconds, 0.01) if grace > 0 else 0.01)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self._signal_group(signal.SIGKILL)  # its group may have outlived it
            self._process.wait()
            sweep(self._token, below)
        self._thread.join(timeout=10)
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        with self._lock:
            if self._commands >= 0:
                os.close(self._commands)
                self._commands = -1

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        """Events as they come; when the process is gone, what killed it and what it left."""
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_lines, args=(self._events, lines), daemon=True)
        reader.start()
        threading.Thread(target=self._wait, args=(lines, reader), daemon=True).start()
        while (line := lines.get()) is not None:
            with contextlib.suppress(ValueError):  # a line that was cut off by a kill
                self._listener(event_of(line))
        os.close(self._events)
        self._listener(Ended(code=self._process.returncode, log=tail(self._log)))

    def _wait(self, lines: queue.SimpleQueue[bytes | None], reader: threading.Thread) -> None:
        """End the lines once the process is reaped, nothing left of it, and all it wrote read."""
        self._process.wait()
        sweep(self._token, ())
        reader.join(timeout=2)
        lines.put(None)


def _lines(descriptor: int, lines: queue.SimpleQueue[bytes | None]) -> None:
    """Raw reads: a buffered reader would hold back the last line."""
    pending = b""
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:
            return
        if not data:
            return
        *whole, pending = (pending + data).split(b"\n")
        for line in whole:
            lines.put(line)
        if len(pending) > _LONGEST_LINE:
            pending = b""


def _environment(devices: str | None, token: str, extra: Mapping[str, str]) -> dict[str, str]:
    """The driver's environment, with the worker's own GPUs alone and nothing of its folder."""
    found = {**os.environ, MARK: token, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", **extra}
    if devices is not None:
        found["CUDA_VISIBLE_DEVICES"] = devices
        found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    found.setdefault("TOKENIZERS_PARALLELISM", "true")
    home = str(Path(willfit.__file__).resolve().parents[1])
    if home not in {str(Path(folder).resolve()) for folder in site.getsitepackages()}:
        paths = [home, *filter(None, [found.get("PYTHONPATH")])]
        found["PYTHONPATH"] = os.pathsep.join(paths)
    return found


def _descendants(pid: int) -> tuple[Any, ...]:
    try:
        return tuple(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return ()


def marked(token: str) -> Iterator[Any]:
    """Processes that inherited a worker's mark, whatever session or parent they have now."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == token and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def sweep(token: str, known: Sequence[Any]) -> int:
    """Kill what a worker left behind; returns how many there were."""
    left = {process.pid: process for process in (*known, *marked(token))}
    count = 0
    for process in left.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
            count += 1
    psutil.wait_procs(list(left.values()), timeout=10)
    return count


def tail(path: Path, size: int = 4000) -> str:
    """The end of a log, as text."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
