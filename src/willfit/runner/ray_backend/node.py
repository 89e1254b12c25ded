"""A node as the driver holds it: calls to its agent, what its workers say, and its loss."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import ray
import ray.exceptions

from willfit.runner.processes import Ended, Said
from willfit.runner.ray_backend.agent import Facts

PATIENCE: Final = 60.0
"""Seconds without an answer after which a node counts as lost; Ray itself counts one that misses
its heartbeats after about 15."""
POLL: Final = 5.0
"""Seconds that the agent waits for something to tell before it says that there is nothing."""
PAUSE: Final = 0.2
"""Seconds until a call that got no answer is repeated."""
CLOSING: Final = 30.0
"""Seconds that an agent has to end its workers before it is killed, which ends them too."""


class NodeLostError(Exception):
    """The node or its agent is gone; the message says which and why."""


@dataclass(kw_only=True)
class Node:
    """One node with its agent.

    Every call is repeated while Ray cannot say whether it arrived, which the agent allows for. When
    it is sure that the agent is gone, or there was no answer for too long, the node is *lost*: its
    workers' listeners are told, once, and nothing of it is listened to any more.
    """

    name: str
    agent: Any
    """Ray's handle of the actor."""
    facts: Facts
    on_lost: Callable[[Node], None] = lambda _: None
    lost: str = ""
    """Why it counts as lost; empty while it does not."""
    rows: str = ""
    """Digest of the prepared rows that were sent last."""
    placing: threading.Lock = field(default_factory=threading.Lock)
    """Held while a stage's files are sent, so that each is sent once."""
    _workers: dict[str, Callable[[Said], None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: bool = False
    _thread: threading.Thread | None = None

    def listen(self) -> None:
        """Begin to take in what the node's workers say."""
        self._thread = threading.Thread(target=self._listen, name=self.name, daemon=True)
        self._thread.start()

    def call(self, method: str, *args: Any, patience: float | None = PATIENCE) -> Any:
        """What a method of the agent returns; raises `NodeLostError`, and what the agent raises.

        ``patience``: seconds that an answer may take, None for as long as the node lives.
        """
        silent_since: float | None = None
        while not self.lost and not self._closing:
            try:
                return ray.get(getattr(self.agent, method).remote(*args), timeout=patience)
            except ray.exceptions.RayTaskError as error:
                raise cause_of(error) from error
            except ray.exceptions.GetTimeoutError:
                self._lose(f"no answer for {patience:.0f} s")
            except (ray.exceptions.ActorUnavailableError, ray.exceptions.ObjectLostError) as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE:
                    self._lose(_reason(error))
                time.sleep(PAUSE)
            except ray.exceptions.RayError as error:
                self._lose(_reason(error))
        raise NodeLostError(self.lost or "the run is over")

    def ask(self, method: str, *args: Any) -> Any:
        """The call as Ray's reference, to be waited for together with others."""
        return getattr(self.agent, method).remote(*args)

    def attach(self, key: str, listener: Callable[[Said], None]) -> None:
        """Tell a worker's listener what it says; at once that it is gone, where the node is."""
        with self._lock:
            self._workers[key] = listener
        if self.lost:
            listener(self._gone())

    def detach(self, key: str) -> None:
        """Nothing more is told of a worker."""
        with self._lock:
            self._workers.pop(key, None)

    @property
    def num_workers(self) -> int:
        """Workers on the node."""
        return len(self._workers)

    def close(self) -> None:
        """Nothing of ours is left on the node, and no thread of ours talks to Ray about it."""
        self._closing = True
        with contextlib.suppress(ray.exceptions.RayError):
            if not self.lost:
                ray.get(self.ask("close"), timeout=CLOSING)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.agent)
        if self._thread is not None:
            self._thread.join(timeout=CLOSING)

    def _listen(self) -> None:
        number = 0
        with contextlib.suppress(NodeLostError):
            while True:
                for letter in self.call("heard", number, POLL):
                    listener = self._workers.get(letter.key)
                    if listener is not None:
                        listener(letter.said)
                    number = letter.number

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self.lost or self._closing:
                return
            self.lost = f"node {self.name} was lost ({reason})"
            listeners = list(self._workers.values())
        self.on_lost(self)
        for listener in listeners:
            listener(self._gone())
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.agent)  # it may live and be out of reach

    def _gone(self) -> Ended:
        return Ended(code=-9, log="node lost", why=self.lost, lost=True)


def cause_of(error: ray.exceptions.RayTaskError) -> Exception:
    """What the agent raised, as it is known here."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else error


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which is the one that has the reason, and its beginning."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[-1].partition(". ")[0][:200] if lines else type(error).__name__
