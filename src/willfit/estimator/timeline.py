"""A replayed run as moments: what each of its GPUs holds, from loading to the end."""

from __future__ import annotations

from typing import Final

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator
from willfit.estimator.replay import changes_of, kinds_of
from willfit.results import Moment, Timeline
from willfit.trace.recording import Recording

MOMENTS: Final = 1200
"""Moments of a timeline: more than a picture has columns."""


def timelines(recording: Recording, alloc_conf: str = "") -> dict[int, Timeline]:
    """The run on each of its GPUs, by index."""
    return {gpu: timeline(recording.on(gpu), alloc_conf) for gpu in recording.gpus}


def timeline(recording: Recording, alloc_conf: str = "", moments: int = MOMENTS) -> Timeline:
    """One GPU's run cut into equal stretches of events, each shown at its fullest."""
    allocator = Allocator(parse_alloc_conf(alloc_conf))
    kinds = dict(kinds_of(recording))
    totals: dict[str, int] = {}
    stretch = max(len(recording.events) // moments, 1)
    found: list[Moment] = []
    fullest = -1
    for number, (event, change) in enumerate(changes_of(recording.events, allocator)):
        kind = kinds.get(event.handle, "temporaries")
        totals[kind] = totals.get(kind, 0) + change
        if number % stretch == 0:
            fullest = -1
            found.append(Moment(phase=event.phase, components={}, reserved_bytes=0))
        if allocator.allocated_bytes > fullest:
            fullest = allocator.allocated_bytes
            found[-1] = Moment(
                phase=event.phase,
                components=dict(totals),
                reserved_bytes=allocator.reserved_bytes,
            )
    return Timeline(moments=tuple(found))
