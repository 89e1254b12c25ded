"""Meter: reads torch's counters, NVML and the process's own memory between the phases of a run."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from willfit.live.measurement import Alive, Reading

LARGEST_SHOWN: Final = 60
"""Entries of `Alive` that are kept."""
HISTORY: Final = 400_000
"""Allocator events that are kept of a step."""


class Meter:
    """Readings of one run on one device; without CUDA host memory alone is read."""

    def __init__(self, device: str) -> None:
        """``device``: ``cuda`` or ``cpu``."""
        self.device = device
        self.cuda = device.startswith("cuda")
        self.readings: list[Reading] = []
        self.alive: tuple[Alive, ...] = ()
        self._nvml = _handle() if self.cuda else None

    def start(self) -> int:
        """Forget what ran before; returns what is still allocated."""
        gc.collect()
        if not self.cuda:
            return 0
        import torch

        here: Any = torch
        here.cuda.init()
        here._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())

    def mark(self, phase: str, step: int = 0) -> None:
        """End of a phase: read, and let the next one's peak begin."""
        process, used = self._device_bytes()
        allocated, reserved, held, held_reserved = self._counters()
        self.readings.append(
            Reading(
                phase=phase,
                step=step,
                allocated_bytes=allocated,
                reserved_bytes=reserved,
                held_bytes=held,
                held_reserved_bytes=held_reserved,
                process_bytes=process,
                device_bytes=used,
                host_bytes=resident_bytes(),
            )
        )
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Until the device is done."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()

    def _counters(self) -> tuple[int, int, int, int]:
        if not self.cuda:
            return 0, 0, 0, 0
        import torch

        torch.cuda.synchronize()
        return (
            int(torch.cuda.max_memory_allocated()),
            int(torch.cuda.max_memory_reserved()),
            int(torch.cuda.memory_allocated()),
            int(torch.cuda.memory_reserved()),
        )

    def _device_bytes(self) -> tuple[int | None, int | None]:
        return device_bytes(self._nvml) if self._nvml is not None else (None, None)

    @contextmanager
    def history(self) -> Iterator[None]:
        """Keep every allocation inside with its line of code; `alive` then has the peak's."""
        if not self.cuda:
            yield
            return
        import torch

        record: Any = torch.cuda.memory._record_memory_history
        record(enabled="all", context="alloc", stacks="python", max_entries=HISTORY)
        try:
            yield
            torch.cuda.synchronize()
            events = torch.cuda.memory._snapshot()["device_traces"]
            self.alive = alive_at_peak(events[torch.cuda.current_device()])
        except (KeyError, IndexError, MemoryError):
            self.alive = ()  # a release that tells it otherwise: the readings do not need it
        finally:
            record(enabled=None)


def alive_at_peak(events: list[Mapping[str, Any]]) -> tuple[Alive, ...]:
    """Blocks of these events that were alive when most was; older blocks are not among them."""
    live: dict[int, tuple[int, str]] = {}
    total = most = 0
    best: dict[int, tuple[int, str]] = {}
    grown = False
    for event in events:
        if event["action"] == "alloc":
            live[event["addr"]] = (event["size"], _where(event.get("frames", ())))
            total += event["size"]
            grown = True
        elif event["action"] == "free_requested" and event["addr"] in live:
            if grown and total > most:
                most, best = total, dict(live)
            grown = False
            total -= live.pop(event["addr"])[0]
    if total > most:
        best = live
    counted = Counter(best.values())
    rows = [Alive(where=where, num_bytes=size, count=n) for (size, where), n in counted.items()]
    rows.sort(key=lambda row: -row.num_bytes * row.count)
    return tuple(rows[:LARGEST_SHOWN])


_FOREIGN: Final = ("torch/nn/", "torch/_", "torch/utils", "torch/autograd", "torch/cuda")


def _where(frames: Any) -> str:
    """The innermost line outside of torch."""
    for frame in frames:
        name = str(frame.get("filename", ""))
        if name and not any(part in name for part in _FOREIGN):
            return f"{Path(name).name}:{frame.get('line')} {frame.get('name')}"
    return ""


def resident_bytes() -> int:
    """Resident memory of this process (Linux; 0 where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def device_bytes(handle: Any) -> tuple[int | None, int | None]:
    """What this process and what all have in use on the device, as NVML has it."""
    import pynvml  # type: ignore[import-untyped]  # it has no stubs

    used = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    mine = [
        entry.usedGpuMemory
        for entry in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        if entry.pid == os.getpid() and entry.usedGpuMemory is not None
    ]
    return (int(mine[0]) if mine else None), used


def _handle() -> Any:
    """NVML's handle of the first device; None where NVML does not answer."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no library or no driver: the counters of torch remain
        return None
