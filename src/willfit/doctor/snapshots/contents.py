"""What a memory snapshot of PyTorch holds: segments with their blocks, and events before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from willfit.doctor.report import Frame

Stack = tuple[Frame, ...]
"""Frames, innermost first, as torch records them; empty where none were recorded."""
State = Literal["allocated", "pending", "free"]
"""``pending``: freed, but another stream may still use it."""
PoolId = tuple[int, int]
"""(0, 0) is the usual pool; others belong to CUDA graphs and to ``torch.cuda.MemPool``."""


class Event(NamedTuple):
    """One thing that the allocator did."""

    # no dataclass, for a snapshot has millions
    action: str
    """``alloc``, ``free_requested``, ``free_completed``, ``segment_alloc``, ``segment_free``,
    ``segment_map``, ``segment_unmap``, ``oom``, ``snapshot``, or a newer one."""
    address: int
    """0 of ``oom`` and ``snapshot``."""
    num_bytes: int
    """As requested; of a segment, its size; of ``oom``, the request rounded to a block."""
    stream: int
    stack: Stack
    pool: PoolId
    category: str
    """As the profiler names it: ``parameter``, ``gradient``…; "" where it is not told."""
    free_bytes: int
    """What the device had at an ``oom``; else 0."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a segment, in use or free."""

    address: int
    num_bytes: int
    requested_bytes: int
    """Before rounding; 0 of a free one."""
    state: State
    stack: Stack = ()
    """Of its allocation."""
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Memory taken from the device at once; of an expandable one, a stretch that is mapped."""

    gpu: int
    address: int
    num_bytes: int
    stream: int
    small: bool
    """Whether it serves allocations of up to 1 MiB."""
    expandable: bool
    pool: PoolId
    blocks: tuple[Block, ...]
    """In order of address; together they are the segment."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A whole file."""

    segments: tuple[Segment, ...]
    """At the end, on every GPU."""
    traces: tuple[tuple[Event, ...], ...] = ()
    """By GPU, oldest first; a recording keeps only its newest events."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """``allocator_settings`` as torch wrote them."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """GPUs on which anything happened or lies."""
        recorded = {index for index, trace in enumerate(self.traces) if trace}
        return tuple(sorted(recorded | {segment.gpu for segment in self.segments}))

    def trace(self, gpu: int) -> tuple[Event, ...]:
        """Events of one GPU; none where nothing was recorded."""
        return self.traces[gpu] if gpu < len(self.traces) else ()

    def on(self, gpu: int) -> tuple[Segment, ...]:
        """Segments of one GPU."""
        return tuple(segment for segment in self.segments if segment.gpu == gpu)
