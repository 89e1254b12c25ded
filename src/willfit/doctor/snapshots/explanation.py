"""What filled the GPUs, as `explain` finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from willfit.doctor.report import Frame
from willfit.doctor.snapshots.moment import Tenant
from willfit.doctor.snapshots.places import Place


@dataclass(frozen=True, kw_only=True)
class LineUse:
    """What one line of code allocated and is still in use."""

    user: Frame | None
    """Innermost frame outside of libraries; None where the recording has none."""
    library: Frame | None
    """The library's line below it; None where there is none."""
    category: str
    """As `places.Place.category`."""
    guessed: bool
    """Whether the category is a guess from the frames' names."""
    num_bytes: int
    """Of its blocks."""
    count: int
    """Number of blocks."""


def line_use(place: Place, tenants: Sequence[Tenant]) -> LineUse:
    """What tenants of one place take together."""
    return LineUse(
        user=place.user,
        library=place.library,
        category=place.category,
        guessed=place.guessed,
        num_bytes=sum(tenant.num_bytes for tenant in tenants),
        count=len(tenants),
    )


@dataclass(frozen=True, kw_only=True)
class CategoryUse:
    """What is in use for one purpose."""

    name: str
    num_bytes: int
    guessed_bytes: int
    """The part of it whose purpose is a guess."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A line that allocated in every round of a loop and freed nothing."""

    use: LineUse
    rounds: int
    """Rounds of the loop in which it did."""
    loop: Frame
    """The loop: the line in it that comes round."""


@dataclass(frozen=True, kw_only=True)
class FailedRequest:
    """An allocation that failed."""

    position: int
    """Number of the event in the GPU's trace."""
    requested_bytes: int
    """Rounded to a block."""
    segment_bytes: int
    """What was asked of the device for it, as the message of the failure says."""
    free_bytes: int
    """What the device had."""
    user: Frame | None
    library: Frame | None
    largest_free_bytes: int
    """The largest free block that could serve it: of its pool and stream."""
    fits_together: bool
    """Whether all that could serve it, fragments and the device's rest, would be enough in one
    piece."""
    capped: bool
    """Whether the device had enough, so that a cap on this process refused it."""


@dataclass(frozen=True, kw_only=True)
class GpuExplanation:
    """One GPU at the failure, or at the end where none is recorded.

    live + cached + fragmentation + private = reserved.
    """

    gpu: int
    failure: FailedRequest | None
    num_events: int
    num_failures: int
    reserved_bytes: int
    """Taken from the device by PyTorch."""
    live_bytes: int
    """In blocks in use, those waiting for another stream among them."""
    requested_bytes: int
    """The same before rounding."""
    pending_bytes: int
    """The part of ``live_bytes`` that was freed and waits for another stream."""
    cached_bytes: int
    """Free segments and pages as wholes: given back to the device when it is full."""
    fragmentation_bytes: int
    """Free blocks in segments that are partly in use: they cannot be given back."""
    private_bytes: int
    """Free in the pools of CUDA graphs and ``MemPool``: of no use outside of them."""
    largest_free_bytes: int
    """The largest free block."""
    peak_reserved_bytes: int
    """In the whole recording."""
    total_bytes: int | None
    """Of the device, where it was given."""
    outside_bytes: int | None
    """In use on the device outside of PyTorch's allocator: contexts and other processes; None
    where no failure tells what was free, or the total is not known."""
    categories: tuple[CategoryUse, ...]
    lines: tuple[LineUse, ...]
    """By line and category; both largest first, and each adds up to ``live_bytes``."""
    largest: tuple[LineUse, ...]
    """Equal blocks of one line counted together, by the size of one, largest first."""
    earlier: tuple[LineUse, ...]
    """What was in use before the recording began; empty where nothing was recorded."""
    growing: tuple[Growth, ...]
    num_segments: int

    @property
    def earlier_bytes(self) -> int:
        """In use since before the recording began."""
        return sum(use.num_bytes for use in self.earlier)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A snapshot, explained."""

    gpus: tuple[GpuExplanation, ...]
    notes: tuple[str, ...]
    """What the file does not tell."""
