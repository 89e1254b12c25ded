"""Workers through agents: a launcher that finds the node, and a worker that is not here."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from willfit.errors import InputError, StorageError
from willfit.runner.processes import (
    GRACE,
    Ended,
    Launcher,
    Listener,
    PlaceLostError,
    Said,
    Worker,
)
from willfit.runner.protocol import SOFTWARE, Command, Fatal, Job
from willfit.runner.ray_backend.node import PATIENCE, Node, NodeLostError
from willfit.runner.ray_backend.parcel import Parcels

TOLD: Final = 10.0
"""Seconds for a worker's last word to arrive after its end."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A GPU of the cluster."""

    node: Node
    device: str
    """What ``CUDA_VISIBLE_DEVICES`` calls it there."""


@dataclass(frozen=True, kw_only=True)
class RayLauncher:
    """Stages' workers on the nodes that have their GPUs; what prepares rows stays here."""

    local: Launcher
    """Starts what works on the driver's own files."""
    nodes: Sequence[Node]
    places: Mapping[str, Place]
    """By the names that `Devices` has for the cluster's GPUs."""
    parcels: Parcels = field(default_factory=Parcels)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def start(self, job: Job, *, devices: str | None, log: Path, listener: Listener) -> Worker:
        """A worker on the node of its GPUs; one without, where the fewest are."""
        if job.kind != "stage":
            return self.local.start(job, devices=devices, log=log, listener=listener)
        places = [self.places[name] for name in (devices or "").split(",") if name]
        node = places[0].node if places else self._idlest()
        if node.lost:
            raise PlaceLostError(node.lost)
        return RayWorker(
            node=node,
            key=f"{job.name}-{next(self._numbers)}",
            job=job,
            devices=",".join(place.device for place in places),
            parcels=self.parcels,
            log=log,
            listener=listener,
        )

    def _idlest(self) -> Node:
        """The node with the fewest workers; any that is lost where all are."""
        there = [node for node in self.nodes if not node.lost] or self.nodes
        return min(there, key=lambda node: node.num_workers)


class RayWorker:
    """A worker on another node; a thread of its own talks to the agent, so that nobody waits."""

    def __init__(
        self, *, node: Node, key: str, job: Job, devices: str, parcels: Parcels, log: Path,
        listener: Listener,
    ) -> None:  # fmt: skip
        self._node, self._key, self._job, self._devices = node, key, job, devices
        self._parcels, self._log, self._listener = parcels, log, listener
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._ended, self._lock = threading.Event(), threading.Lock()
        node.attach(key, self._hear)
        self._thread = threading.Thread(target=self._talk, name=key, daemon=True)
        self._thread.start()

    def send(self, command: Command) -> bool:
        """Whether it is on its way: a worker that is known to be gone takes none."""
        self._commands.put(command)
        return not self._ended.is_set()

    def end(self, grace: float = GRACE) -> None:
        """Its process and all below it are gone when this returns, or its node is."""
        self._commands.put(None)
        try:
            began = self._ended.is_set() or self._node.call(
                "end", self._key, grace, patience=PATIENCE + grace
            )
            if not began:
                self._hear(Ended(code=-9, log="", why="it was ended before it began"))
        except NodeLostError:
            pass  # which was told to the listener
        self._ended.wait(timeout=TOLD)
        self._thread.join(timeout=TOLD)

    def _talk(self) -> None:
        """Have the worker started, then hand commands on."""
        try:
            job, rows = self._placed()
            self._node.call("start", self._key, job, self._devices, rows)
            for number in itertools.count(1):
                command = self._commands.get()
                if command is None:
                    return
                self._node.call("send", self._key, number, command)
        except NodeLostError:
            return
        except Exception as error:  # whatever the agent raised: a stage must not wait for ever
            self._hear(_fatal(error))
            self._hear(Ended(code=SOFTWARE, log=str(error)))

    def _placed(self) -> tuple[Job, str]:
        """The job with the node's own paths, and the digest of its rows, which are there now."""
        parcel = self._parcels.of(self._job)
        with self._node.placing:
            parcel.send_rows(self._node)
        stage = self._node.call(
            "place", dict(self._job.stage), parcel.models, parcel.code, patience=None
        )
        return self._job.model_copy(update={"stage": stage}), parcel.digest

    def _hear(self, said: Said) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            if isinstance(said, Ended):
                self._node.detach(self._key)
                self._keep_log(said.log)
                self._ended.set()
            self._listener(said)

    def _keep_log(self, text: str) -> None:
        """The end of its output, where that of a worker of this machine would be."""
        if not text:
            return
        with contextlib.suppress(OSError):  # a full disk is told where results are written
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{text.rstrip()}\n")


def _fatal(error: Exception) -> Fatal:
    """What a worker of this machine would say in its place."""
    if isinstance(error, StorageError):
        return Fatal(kind="storage", message=str(error))
    if isinstance(error, InputError):
        return Fatal(kind="input", message=str(error))
    return Fatal(kind="bug", message=f"{type(error).__name__}: {str(error)[:600]}")
