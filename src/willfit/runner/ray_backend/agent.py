"""The agent of a node: starts workers there, keeps what they say, and reads the node's GPUs.

It knows nothing of Ray, which makes an actor of it: every method may be called from any thread,
and those that change something may come twice, since a call whose answer was lost is repeated.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil  # type: ignore[import-untyped]  # it has no stubs

from willfit._version import __version__
from willfit.live.nvml import LiveGpu
from willfit.runner.ending import host_kills, why_ended
from willfit.runner.gpus import Devices, GpuProbe, visible
from willfit.runner.processes import Ended, LocalLauncher, Said, Worker, tail
from willfit.runner.protocol import Command, Job
from willfit.runner.ray_backend.models import ModelFiles, located
from willfit.runner.ray_backend.scratch import Scratch
from willfit.units import MIB

LOG_BYTES: Final = MIB
"""The end of a worker's output that goes back to the driver."""
_THREADS: Final = "OMP_NUM_THREADS"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A node as its agent finds it."""

    version: str
    """Of willfit there."""
    devices: Devices
    """The GPUs that Ray gave to the agent, by numbers of the node's own."""
    host_free_bytes: int


class Letter(NamedTuple):
    """Something that a worker said."""

    number: int
    key: str
    """The worker's."""
    said: Said


class Mailbox:
    """What workers said and the driver has not got yet, numbered from 1."""

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()
        self._count, self._closed = 0, False
        self._changed = threading.Condition()

    def put(self, key: str, said: Said) -> None:
        """One more."""
        with self._changed:
            self._count += 1
            self._letters.append(Letter(self._count, key, said))
            self._changed.notify_all()

    def after(self, number: int, seconds: float) -> list[Letter]:
        """Those above a number, which is thereby known to have arrived; waits for the first."""
        with self._changed:
            while self._letters and self._letters[0].number <= number:
                self._letters.popleft()
            self._changed.wait_for(lambda: self._letters or self._closed, timeout=seconds)
            return list(self._letters)

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Agent:
    """What the driver asks of one node.

    ``folder``: the driver's current one, which becomes the workers' too where the node has it.
    """

    def __init__(self, name: str, probe: GpuProbe, *, has_gpus: bool, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        self._name, self._probe = name, probe
        self._devices = visible(probe) if has_gpus else Devices(gpus={}, names={}, nvml_index={})
        self._scratch = Scratch.new()
        self._launcher = LocalLauncher(
            folder=self._scratch.jobs, held=(self._scratch.lock,), extra_env=_threads()
        )
        self._mailbox = Mailbox()
        self._workers: dict[str, Worker | None] = {}
        """By key; None where it was ended before it began."""
        self._sent: dict[str, tuple[int, bool]] = {}
        """Number of the last command of each, and whether it could be given."""
        self._models: dict[tuple[str, str], str] = {}
        """Where each is here, by its setting and the driver's path."""
        self._lock, self._placing = threading.Lock(), threading.Lock()

    def facts(self) -> Facts:
        """What the driver needs to know."""
        return Facts(
            version=__version__,
            devices=self._devices,
            host_free_bytes=int(psutil.virtual_memory().available),
        )

    def read(self) -> list[LiveGpu | None]:
        """The agent's GPUs now, in their order; None for one that does not answer."""
        found = self._probe.read()
        return [found[i] if i < len(found) else None for i in self._devices.nvml_index.values()]

    # ---- what a stage needs here

    def receive(self, digest: str, offset: int, data: bytes) -> None:
        """A piece of prepared rows."""
        self._scratch.receive(digest, offset, data)

    def complete(self, digest: str) -> None:
        """All pieces were sent."""
        self._scratch.complete(digest)

    def place(
        self, stage: Mapping[str, Any], models: Mapping[str, ModelFiles], code: Mapping[str, bytes]
    ) -> dict[str, Any]:
        """The stage's settings with this node's paths; may take as long as a download."""
        allowed = bool(stage.get("trust_remote_code"))
        with self._placing:  # for all workers of the node that wait for the same
            for name, model in models.items():
                if (name, model.path) not in self._models:
                    found = located(model, setting=name, code=allowed, node=self._name)
                    self._models[name, model.path] = found
        here = {name: self._models[name, model.path] for name, model in models.items()}
        if code:
            here["run"] = self._scratch.code(str(stage["run"]), code)
        return {**stage, **here}

    # ---- workers

    def start(self, key: str, job: Job, devices: str, rows: str) -> None:
        """A worker on those of the agent's GPUs; ``rows`` is the digest of its prepared rows."""
        with self._lock:
            if key in self._workers:
                return
            here = job.model_copy(
                update={
                    "rows": str(self._scratch.rows(rows)), "results": "", "returns_bytes": True,
                    "parent": os.getpid(),
                }
            )  # fmt: skip
            self._workers[key] = self._launcher.start(
                here, devices=devices, log=self._scratch.log(key), listener=self._listener(key)
            )

    def _listener(self, key: str) -> Callable[[Said], None]:
        kills = host_kills()

        def listener(said: Said) -> None:
            if isinstance(said, Ended):
                log = tail(self._scratch.log(key), LOG_BYTES)
                said = replace(said, log=log, why=why_ended(said, kills))
            self._mailbox.put(key, said)

        return listener

    def send(self, key: str, number: int, command: Command) -> bool:
        """Whether the command could be given; ``number`` counts the worker's commands."""
        with self._lock:
            worker, sent = self._workers.get(key), self._sent.get(key)
            if sent is None or sent[0] < number:
                sent = number, worker is not None and worker.send(command)
                self._sent[key] = sent
            return sent[1]

    def end(self, key: str, grace: float) -> bool:
        """The worker is gone when this returns; False where it never began, and now never will."""
        with self._lock:
            worker = self._workers.setdefault(key, None)
        if worker is not None:
            worker.end(grace)
        return worker is not None

    def heard(self, after: int, seconds: float) -> Sequence[Letter]:
        """What workers said since the letter of that number."""
        return self._mailbox.after(after, seconds)

    def close(self) -> None:
        """All workers are gone, and what lay here for them."""
        with self._lock:
            workers = [worker for worker in self._workers.values() if worker is not None]
            self._workers = dict.fromkeys(self._workers)
        threads = [threading.Thread(target=worker.end, args=(0.0,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._mailbox.close()
        self._scratch.remove()


def _threads() -> dict[str, str]:
    """Threads of a worker's computations as the node has them: Ray sets one for its own tasks.

    What the process was started with says whether the variable is the node's own.
    """
    given = psutil.Process().environ().get(_THREADS)
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {_THREADS: given or str(here or 1)}
