"""One replica of a stage: a worker with its GPUs, what it does now, and how often it fell."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from willfit.runner.processes import Worker
from willfit.runner.shards import Range

State = Literal["absent", "loading", "ready", "busy", "gone"]
"""``gone``: its GPUs went with their node, so no worker comes any more."""


@dataclass(kw_only=True)
class Replica:
    """A place for a worker; workers come and go, the place stays."""

    number: int
    gpus: tuple[int, ...]
    """The run's numbers of its GPUs; empty on the CPU."""
    worker: Worker | None = None
    generation: int = 0
    """Counts its workers, so that what a dead one said last is not taken for the living one's."""
    state: State = "absent"
    loaded: bool = False
    """Whether its worker has come so far as to have the model."""
    rows: Range | None = None
    """The shard it computes."""
    done: int = 0
    """Rows done of that."""
    since: float = field(default_factory=time.monotonic)
    """When it last showed that it goes on."""
    kills_before: int | None = None
    """Processes that the kernel had killed for memory when its worker started."""
    verdict: str = ""
    """Why the driver itself ended the worker."""

    def alive(self) -> None:
        """It showed progress."""
        self.since = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Since it last showed progress."""
        return time.monotonic() - self.since

    def word(self) -> str:
        """What it does, for a progress line."""
        place = "+".join(map(str, self.gpus)) if self.gpus else "cpu"
        what = f"shard {self.rows}" if self.rows is not None else self.state
        return f"{place}: {what}"


def groups(
    gpus: Sequence[int], size: int, nodes: Mapping[int, str] | None = None
) -> list[tuple[int, ...]]:
    """GPUs in groups of ``size``, neighbours together; what is left over stays idle.

    ``nodes``: the node of each GPU in a cluster; no group spreads over two.
    """
    by_node: dict[str, list[int]] = {}
    for gpu in gpus:
        by_node.setdefault((nodes or {}).get(gpu, ""), []).append(gpu)
    return [
        tuple(of_node[i : i + size])
        for of_node in by_node.values()
        for i in range(0, len(of_node) - size + 1, size)
    ]
