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
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import psutil  # type: ignore[import-untyped]  # it has no stubs

import willfit
from willfit.runner.atomic import cannot_write, write_bytes
from willfit.runner.protocol import MARK, Command, Event, Job, Stop, event_of

GRACE: Final = 10.0
"""Seconds that a worker has to leave by itself."""
AFTER_TERM: Final = 3.0
"""Seconds after SIGTERM until SIGKILL."""
STUCK: Final = 60.0
"""Seconds after which a process that SIGKILL does not end is left to the kernel, in which it is
stuck: the release contract will see what it holds."""
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
        name = uuid.uuid4().hex
        self._token = mark_of(folder) + name
        self._path = folder / f"job-{job.kind}-{name[:12]}.json"
        write_bytes(self._path, job.line())
        self._lock, self._ending, self._reaping = (threading.Lock() for _ in range(3))
        self._gone = threading.Event()
        commands, self._commands = os.pipe()
        self._events, events = os.pipe()
        try:
            with _opened(log) as output:
                self._process = subprocess.Popen(
                    [
                        sys.executable, "-m", "willfit.worker", str(self._path), str(commands),
                        str(events),
                    ],
                    env=_environment(devices, self._token, extra_env),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(commands, events, *held),
                )  # fmt: skip
        except BaseException:  # an interrupt too: with its lifeline closed a worker ends itself
            self._leave()
            os.close(self._events)
            raise
        finally:
            os.close(commands)
            os.close(events)
        self._thread = threading.Thread(target=self._read, name=job.name, daemon=True)
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
            self._leave()
            if grace > 0 and not self._gone.wait(grace):
                self._signal_group(signal.SIGTERM)
                self._gone.wait(AFTER_TERM)
            self._signal_group(signal.SIGKILL)
            self._gone.wait(STUCK)
            sweep(self._token, below)
        self._thread.join(timeout=10)

    def _leave(self) -> None:
        """Close the lifeline; the job's file has no reader any more."""
        with self._lock:
            if self._commands >= 0:
                os.close(self._commands)
                self._commands = -1
        self._path.unlink(missing_ok=True)

    def _signal_group(self, number: signal.Signals) -> None:
        """Unless the process is reaped: its number may be another's by then."""
        with self._reaping:
            if self._process.returncode is None:
                self._kill_group(number)

    def _kill_group(self, number: signal.Signals) -> None:
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
        self._leave()
        self._listener(Ended(code=self._process.returncode, log=tail(self._log)))

    def _wait(self, lines: queue.SimpleQueue[bytes | None], reader: threading.Thread) -> None:
        """End the lines once the process is reaped, nothing left of it, and all it wrote read."""
        ours = _until_exit(self._process.pid)
        with self._reaping:  # what is left of its group goes before its number is free again
            if ours:
                self._kill_group(signal.SIGKILL)
            self._process.wait()
        sweep(self._token)
        self._gone.set()
        reader.join(timeout=2)
        lines.put(None)


def _until_exit(pid: int) -> bool:
    """Return when a child has exited: True if it is still to be reaped, by nobody but us."""
    try:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return True
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
    except (ChildProcessError, psutil.Error):  # another's wait for any child has reaped it
        return False
    return True


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[BinaryIO]:
    """A worker's log, to be added to."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("ab")
    except OSError as error:
        raise cannot_write(log, error) from error
    with file:
        yield file


def _lines(descriptor: int, lines: queue.SimpleQueue[bytes | None]) -> None:
    """Raw reads: a buffered reader would hold back the last line."""
    pending = b""
    while True:
        data = os.read(descriptor, 1 << 16)
        if not data:
            os.close(descriptor)  # here alone: another thread's close could give its number away
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
    found.setdefault("PYTHONFAULTHANDLER", "1")  # a crash leaves its stack in the log
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


def mark_of(folder: Path) -> str:
    """How the marks of all workers begin whose jobs lie in a folder: its device and inode."""
    facts = folder.stat()
    return f"{facts.st_dev:x}.{facts.st_ino:x}."


def marked(mark: str) -> Iterator[Any]:
    """Processes that inherited a worker's mark, whatever session or parent they have now."""
    for process in psutil.process_iter():
        try:
            found = process.environ().get(MARK, "")
            if found and found.startswith(mark) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def sweep(mark: str, known: Sequence[Any] = ()) -> int:
    """Kill what a worker left behind; returns how many there were.

    ``mark``: a worker's own, or how those of a folder's workers begin.
    """
    left = {process.pid: process for process in (*known, *marked(mark))}
    left.pop(os.getpid(), None)
    count = 0
    for process in left.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
            count += 1
    until = time.monotonic() + 10
    while not all(_is_over(process) for process in left.values()) and time.monotonic() < until:
        time.sleep(0.01)
    return count


def _is_over(process: Any) -> bool:
    """Whether it has ended; who has to reap it, which may be nobody, does not matter."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def tail(path: Path, size: int = 4000) -> str:
    """The end of a log, as text."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
