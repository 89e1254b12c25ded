"""What other allocator settings would have made of a recording, as `replayed` finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FAITHFUL: Final = 0.01
"""Share of the reserved bytes by which a replay may differ and still be believed: one segment of
20 MiB is that of 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How well the recording, replayed with its own settings, gives what was recorded."""

    alloc_conf: str
    """The recorded settings, as ``PYTORCH_CUDA_ALLOC_CONF``."""
    num_allocations: int
    num_unlike: int
    """After so many of them other bytes were reserved than recorded."""
    largest_difference_bytes: int
    """Of reserved bytes, over all allocations."""
    last_difference_bytes: int
    """Reserved at the failure, or at the end, less what was recorded."""
    recorded_peak_bytes: int
    """The most that was reserved."""
    fails_alike: bool | None
    """Whether the request that failed fails in the replay too, and no earlier one; None where no
    failure is recorded."""

    @property
    def faithful(self) -> bool:
        """Whether the replay is near enough to believe what it says of other settings."""
        near = self.largest_difference_bytes <= FAITHFUL * self.recorded_peak_bytes
        return near and self.fails_alike is not False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One recording under other settings."""

    gpu: int
    alloc_conf: str
    """The other settings."""
    served: bool | None
    """Whether the request that failed would have been served; None where none is recorded."""
    fails_earlier: bool
    """Whether an earlier request would have failed."""
    requested_bytes: int
    """The request that failed; 0 without one."""
    live_bytes: int
    """In use when it failed, as recorded."""
    capacity_bytes: int | None
    """What PyTorch could reserve when it failed; None without a failure."""
    reserved_bytes: int
    """When the request was served or failed; without one, at the end."""
    peak_reserved_bytes: int
    """The most until then."""
    recorded_bytes: int
    """Reserved when it failed, or at the end, as recorded."""
    recorded_peak_bytes: int
    reproduction: Reproduction
    notes: tuple[str, ...]
    """What the answer leaves open."""
