"""Counters: what torch's allocators say of every GPU; a fake stands in where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One GPU as the caching allocator of this process counts it."""

    index: int
    """Torch's number."""
    name: str
    allocated_bytes: int
    reserved_bytes: int
    peak_allocated_bytes: int
    """Since the peak was last begun again."""
    peak_reserved_bytes: int
    ever_allocated_bytes: int
    """Sum of all allocations so far, freed ones included."""
    uuid: str = ""
    """As NVML writes it, without ``GPU-``; empty where torch does not tell."""


class Counters(Protocol):
    """What reads and settles the allocators of all GPUs.

    `TorchCounters` asks torch; `FakeCounters` tells what it is given, for machines without GPUs::

        FakeCounters([[card(0, allocated=9 * GIB), card(1, allocated=8 * GIB)], [card(0), card(1)]])
    """

    def read(self) -> Sequence[Counted]:
        """Every GPU on which this process can have memory; none without CUDA."""

    def has_gpus(self) -> bool:
        """Whether this process may use a GPU, now or later."""

    def begin_peak(self) -> None:
        """Let the peak begin anew on every GPU."""

    def give_back(self) -> None:
        """Hand every cached block back to the device, on every GPU."""


class TorchCounters:
    """torch's own counters; a process that never used CUDA is not made to."""

    def read(self) -> Sequence[Counted]:
        """Every GPU that torch sees, once CUDA is in use."""
        return [self._read(index) for index in self._indices()]

    def has_gpus(self) -> bool:
        """Whether CUDA can be used, without beginning to."""
        import torch

        return torch.cuda.is_available()

    def begin_peak(self) -> None:
        """Torch keeps one peak a GPU: what it was before is lost to others, so note it first."""
        import torch

        for index in self._indices():
            torch.cuda.reset_peak_memory_stats(index)

    def give_back(self) -> None:
        """Wait, drop the workspaces of cuBLAS, and empty the cache, one GPU after the other.

        ``empty_cache`` works on all GPUs of the process, but leaves blocks whose work is pending,
        so each GPU is waited for.
        """
        import torch

        here: Any = torch
        indices = self._indices()
        for index in indices:
            torch.cuda.synchronize(index)
        if indices:
            here._C._cuda_clearCublasWorkspaces()
        for index in indices:
            with torch.cuda.device(index):
                torch.cuda.empty_cache()

    def _indices(self) -> range:
        import torch

        here: Any = torch
        if not here.cuda.is_available() or not here.cuda.is_initialized():
            return range(0)
        return range(torch.cuda.device_count())

    def _read(self, index: int) -> Counted:
        import torch

        facts = torch.cuda.get_device_properties(index)
        stats = torch.cuda.memory_stats(index)
        return Counted(
            index=index,
            name=str(facts.name),
            allocated_bytes=int(torch.cuda.memory_allocated(index)),
            reserved_bytes=int(torch.cuda.memory_reserved(index)),
            peak_allocated_bytes=int(torch.cuda.max_memory_allocated(index)),
            peak_reserved_bytes=int(torch.cuda.max_memory_reserved(index)),
            ever_allocated_bytes=int(stats.get("allocated_bytes.all.allocated", 0)),
            uuid=str(getattr(facts, "uuid", "")),
        )


@dataclass(kw_only=True)
class FakeCounters:
    """Counters as a script says: one entry a state, and what moves it on."""

    states: Sequence[Sequence[Counted]]
    calls: list[str] = field(default_factory=list)
    """What was asked for, in order."""
    state: int = 0
    """Which of the states is read now; a test moves it."""
    on_give_back: Callable[[], None] = lambda: None

    def read(self) -> Sequence[Counted]:
        """The present state."""
        return self.states[min(self.state, len(self.states) - 1)]

    def has_gpus(self) -> bool:
        """Whether any state has one."""
        return any(self.states)

    def begin_peak(self) -> None:
        """Noted."""
        self.calls.append("begin_peak")

    def give_back(self) -> None:
        """Noted; then whatever the script does."""
        self.calls.append("give_back")
        self.on_give_back()
