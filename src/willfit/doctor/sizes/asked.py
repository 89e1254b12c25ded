"""Asked: the sizes that a tensor may have had, from what the allocator printed of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.doctor.amounts import read_amount
from willfit.doctor.report import Report
from willfit.units import MIB, format_bytes, round_up

SMALL: Final = MIB
"""Largest tensor of a small segment (c10/cuda/CUDACachingAllocator.h kSmallSize)."""
MEDIUM: Final = 10 * MIB
"""Largest tensor of a segment of its own size class (kMinLargeAlloc)."""
SMALL_SEGMENT: Final = 2 * MIB
MEDIUM_SEGMENT: Final = 20 * MIB
ROUNDED_TO: Final = 2 * MIB
"""Sizes of larger segments (kRoundLarge)."""
BEFORE_SEGMENTS: Final = ("torch 1.0", "torch 1.1", "torch 1.2", "torch 1.3")
"""Releases that printed the tensor's own size."""
TORCH: Final = ("pytorch-cuda", "pytorch-hip")
"""Families whose allocator is the CUDA caching allocator."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The size that was refused."""

    num_bytes: int
    """As printed, cut."""
    slack_bytes: int
    """Half of the last digit that was printed."""
    is_segment: bool
    """Whether it is what the allocator asked of the device rather than a tensor's own size."""

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest size of the tensor."""
        if not self.is_segment:
            return max(self.num_bytes - self.slack_bytes, 1), self.num_bytes + self.slack_bytes
        if self.num_bytes <= SMALL_SEGMENT:
            return 1, SMALL
        if self.num_bytes == MEDIUM_SEGMENT:
            return SMALL + 1, MEDIUM
        low = self.num_bytes - self.slack_bytes - ROUNDED_TO + 1
        return max(low, SMALL), self.num_bytes + self.slack_bytes

    @property
    def tells(self) -> bool:
        """Whether the size narrows the tensor down: the classes of small ones do not."""
        low, high = self.bounds
        return low > MEDIUM // 2 and high < 2 * low

    def is_of(self, num_bytes: int) -> bool:
        """Whether a tensor of ``num_bytes`` would have been asked for in these words."""
        size = round_up(num_bytes, ROUNDED_TO) if self.is_segment else num_bytes
        return abs(size - self.num_bytes) <= self.slack_bytes

    @property
    def words(self) -> str:
        """What the size says by itself: ``some tensor of 1 to 10 MiB``."""
        if self.is_segment and self.num_bytes == SMALL_SEGMENT:
            return "2.00 MiB is asked for any tensor of up to 1 MiB: its size says nothing more"
        if self.is_segment and self.num_bytes == MEDIUM_SEGMENT:
            return "20.00 MiB is asked for any tensor of 1 to 10 MiB: its size says nothing more"
        return format_bytes(self.num_bytes)


def asked_of(report: Report) -> Asked | None:
    """What was asked for, where the text says it."""
    exact = report.fields.get("tried_bytes_exact")
    if isinstance(exact, int) and exact > 0:
        return Asked(num_bytes=exact, slack_bytes=0, is_segment=False)
    size = report.fields.get("tried_bytes")
    if not isinstance(size, int) or size <= 0:
        return None
    printed = report.printed.get("tried_bytes")
    slack = read_amount(printed).slack_bytes if printed else 0
    by_segment = report.family.startswith(TORCH) and not report.release.startswith(BEFORE_SEGMENTS)
    return Asked(num_bytes=size, slack_bytes=slack, is_segment=by_segment)
