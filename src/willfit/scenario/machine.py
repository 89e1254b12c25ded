"""Machine: the GPUs there are, which may differ, with memory in use; host RAM and disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device as torch would report it."""

    name: str
    """Name to show: ``NVIDIA T4``."""
    capacity_bytes: int
    """``total_memory`` as torch reports it (less than the box says)."""
    compute_capability: tuple[int, int] = (8, 0)
    """(major, minor): (7, 5) for a T4."""
    bandwidth_bytes_per_s: int | None = None
    """Datasheet memory bandwidth."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """Dense FLOP/s by dtype name: ``{"float16": 65e12}``."""
    matmul_flops: Mapping[str, float] = field(default_factory=dict)
    """FLOP/s that PyTorch's products were measured to reach, by dtype name; empty where nobody
    measured."""
    context_bytes: int | None = None
    """CUDA context, modules and libraries of one process; None where nobody measured it."""
    context_range_bytes: tuple[int, int] | None = None
    """Smallest and largest context seen."""
    vendor: str = "nvidia"
    unified_memory: bool = False
    """Whether GPU and host share one memory (Apple, Grace)."""
    capacity_is_nominal: bool = False
    """Whether the capacity is the datasheet's, and torch would report a little less."""
    note: str = ""
    """What a reader should know of this card."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source of each figure by field name."""

    @property
    def usable_bytes(self) -> int:
        """The capacity; of Apple's unified memory the three quarters that macOS lets a GPU use.

        Metal `recommendedMaxWorkingSetSize`; less on the smallest machines.
        """
        return self.capacity_bytes * 3 // 4 if self.vendor == "apple" else self.capacity_bytes

    @property
    def sm(self) -> int:
        """Compute capability as one number: 75 for (7, 5)."""
        return self.compute_capability[0] * 10 + self.compute_capability[1]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the job may use."""

    gpus: tuple[Gpu, ...]
    in_use_bytes: tuple[int, ...] = ()
    """Memory that others hold, per GPU; empty is zero."""
    reserve_bytes: int = 0
    """Memory to keep free on every GPU on purpose."""
    ram_bytes: int | None = None
    disk_bytes: int | None = None
    internet: bool = True
    """Whether a running job can reach the network (a Kaggle submission cannot)."""

    def in_use(self, index: int) -> int:
        """Memory that others hold on GPU ``index``."""
        return self.in_use_bytes[index] if index < len(self.in_use_bytes) else 0

    def budget_bytes(self, index: int) -> int:
        """What the GPU may use − reserve − memory in use."""
        return self.gpus[index].usable_bytes - self.reserve_bytes - self.in_use(index)
