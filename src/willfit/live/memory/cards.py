"""Cards: torch's count of every GPU beside NVML's, and the other processes on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from willfit.errors import InputError
from willfit.live.memory.counters import Counted, Counters
from willfit.live.nvml import LiveGpu, Nvml, Process, live_gpus
from willfit.units import GIB

MOST_CONTEXT: Final = 3 * GIB // 2
"""Bytes that a process has beside torch's own: 0.19–1.96 GiB in 15 published messages, mostly
under 1.1, contexts and libraries together."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU now."""

    counted: Counted
    live: LiveGpu | None
    """None where NVML does not answer for it."""

    @property
    def used_bytes(self) -> int | None:
        """In use on the device by all processes and the driver."""
        return self.live.used_bytes if self.live else None

    @property
    def own_bytes(self) -> int | None:
        """What this process holds on it by NVML; None where the driver does not tell."""
        found = _own(self.live.processes, self.counted.reserved_bytes) if self.live else None
        return found.used_bytes if found is not None else None

    def others(self) -> tuple[Process, ...]:
        """Other processes that hold memory on it."""
        processes = self.live.processes if self.live else ()
        own = _own(processes, self.counted.reserved_bytes)
        return tuple(process for process in processes if process is not own)


def cards(counters: Counters, nvml: Nvml | None = None) -> tuple[Card, ...]:
    """Every GPU on which this process can have memory; without CUDA none, and NVML is not asked."""
    counted = counters.read()
    if not counted:
        return ()
    try:
        live = live_gpus(nvml)
    except InputError:  # no driver library: torch's own counters remain
        live = []
    return tuple(Card(counted=one, live=_same(one, live)) for one in counted)


def _same(counted: Counted, live: Sequence[LiveGpu]) -> LiveGpu | None:
    """NVML's entry of a GPU of torch: both number them apart where some are hidden."""
    for gpu in live:
        if counted.uuid and gpu.uuid.endswith(counted.uuid):
            return gpu
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    numbers = [part.strip() for part in visible.split(",")] if visible else []
    if not numbers:
        return live[counted.index] if counted.index < len(live) else None
    name = numbers[counted.index] if counted.index < len(numbers) else ""
    return live[int(name)] if name.isdecimal() and int(name) < len(live) else None


def _own(processes: Sequence[Process], reserved_bytes: int) -> Process | None:
    """The entry of this process among those of a GPU.

    In a container NVML gives the ids of the host: then the only process, unknown here, whose
    memory is torch's and a context's, is this one.
    """
    for process in processes:
        if process.pid == os.getpid():
            return process
    if len(processes) != 1 or Path(f"/proc/{processes[0].pid}").exists():
        return None
    used = processes[0].used_bytes
    known = used is not None and 0 <= used - reserved_bytes <= MOST_CONTEXT
    return processes[0] if known and reserved_bytes else None
