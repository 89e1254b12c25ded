"""The device's memory as this process may take it: its size, its limits, and what is reserved.

Rules: c10/cuda/CUDACachingAllocator.cpp `setMemoryFraction`, `alloc_block` and the head of
`garbage_collect_cached_blocks`.
"""

from __future__ import annotations

from willfit.allocator.config import AllocatorConfig


class DeviceMemory:
    """What is reserved, and what could be."""

    def __init__(
        self, config: AllocatorConfig, capacity_bytes: int | None, total_bytes: int | None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        """What can be reserved at most: the total without contexts; None is no end."""
        self.total_bytes = capacity_bytes if total_bytes is None else total_bytes
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self.allowed_bytes: int | None = None
        """per_process_memory_fraction of the total; None is no limit."""
        self._rejected_from: int | None = None
        if self.total_bytes is not None:
            share = config.memory_fraction * self.total_bytes
            self.allowed_bytes = int(share + 0.5) if config.memory_fraction < 1 else None
            self._rejected_from = int(share) if config.rejects_early else None
        # without a limit torch collects nothing, whatever the threshold
        self._collects = config.gc_threshold > 0 and self.allowed_bytes is not None
        self._collected_from = int(config.gc_threshold * (self.allowed_bytes or 0))

    def take(self, num_bytes: int) -> bool:
        """Reserve so much; False where the device has no more."""
        reserved = self.reserved_bytes + num_bytes
        if self.capacity_bytes is not None and reserved > self.capacity_bytes:
            return False
        self.reserved_bytes = reserved
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, reserved)
        return True

    def give_back(self, num_bytes: int) -> None:
        """Reserve so much less."""
        self.reserved_bytes -= num_bytes

    def admits(self, segment_bytes: int) -> bool:
        """Whether neither limit on this process forbids a segment."""
        return self._allows(segment_bytes) and not self.rejects(segment_bytes)

    def rejects(self, segment_bytes: int) -> bool:
        """Whether throw_on_cudamalloc_oom refuses a segment that is otherwise allowed."""
        limit = self._rejected_from
        if limit is None or self.reserved_bytes + segment_bytes <= limit:
            return False
        return self._allows(segment_bytes)

    def excess_bytes(self) -> int:
        """What the garbage collector should give back."""
        return self.reserved_bytes - self._collected_from if self._collects else 0

    def free_bytes(self) -> int:
        """What the device still has; only where it has an end."""
        end = self.total_bytes if self.capacity_bytes is None else self.capacity_bytes
        assert end is not None
        return end - self.reserved_bytes

    def _allows(self, segment_bytes: int) -> bool:
        allowed = self.allowed_bytes
        return allowed is None or self.reserved_bytes + segment_bytes <= allowed
