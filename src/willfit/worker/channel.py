"""The worker's two pipes, its heartbeat, and its end when the driver is gone."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]  # it has no stubs

from willfit.runner.processes import marked
from willfit.runner.protocol import MARK, Command, Event, Heartbeat, Stop, command_of

HEARTBEAT: Final = 5.0
"""Seconds between two heartbeats."""
LEAVING: Final = 30.0
"""Seconds that a worker which was asked to leave may still take."""
WATCH: Final = 0.5
"""Seconds between two looks at whether the parent lives."""
LEFT_TO_US: Final[set[Path]] = set()
"""Folders that the driver removes, or this process where it cannot any more."""
_OWN_MARK: Final = os.environ.get(MARK, "")


class Channel:
    """Commands in, events out; when the commands' pipe closes, the process ends at once."""

    def __init__(self, *, commands: int, events: int) -> None:
        self._commands_fd, self._events_fd = commands, events
        os.set_inheritable(commands, False)
        os.set_inheritable(events, False)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._process = psutil.Process()
        self.pid = os.getpid()
        self.devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def start(self) -> None:
        """Begin to listen and to beat."""
        for target in (self._listen, self._beat):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()

    def tell(self, event: Event) -> None:
        """One line up; a driver that is gone ends the process."""
        data = event.line()
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._events_fd, data) :]
            except OSError:
                die()

    def commands(self) -> Iterator[Command]:
        """Commands as they come, until `Stop`."""
        while not isinstance(command := self._commands.get(), Stop):
            yield command

    def host_bytes(self) -> int:
        """Resident bytes of this process now."""
        return int(self._process.memory_info().rss)

    def _listen(self) -> None:
        pending, stopped = b"", False
        while True:
            data = os.read(self._commands_fd, 1 << 16)
            if not data:
                if stopped:  # asked to leave: what runs may finish, but not for ever
                    threading.Event().wait(LEAVING)
                die()
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                command = command_of(line)
                stopped = stopped or isinstance(command, Stop)
                self._commands.put(command)

    def _beat(self) -> None:
        pause = threading.Event()
        while not pause.wait(HEARTBEAT):
            self.tell(Heartbeat(host=self.host_bytes()))


def die() -> Any:
    """End everything below this process and then itself, at once: the driver is gone."""
    own = os.getpid()
    for _ in range(3):  # what is started meanwhile is found the next time
        for process in (*_below(own), *(marked(_OWN_MARK) if _OWN_MARK else ())):
            if process.pid != own:
                _kill(process)
    for folder in LEFT_TO_US:
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(1)


def _below(pid: int) -> list[Any]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _kill(process: Any) -> None:
    try:
        process.kill()
    except psutil.Error:
        return


def bind_to_parent(parent: int) -> None:
    """End with the driver, also where its end of the pipe lives on in a process that it forked.

    The kernel could send SIGKILL for this (``PR_SET_PDEATHSIG``). It would come when the *thread*
    that started us ends, and it would leave no time to end what runs below us, which would keep
    the GPU; so the parent's number is watched.
    """
    if os.getppid() != parent:
        die()
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    pause = threading.Event()
    while not pause.wait(WATCH):
        if os.getppid() != parent:
            die()
