"""A recording as a memory snapshot, in the form that PyTorch's own visualiser opens.

torch/cuda/_memory_viz.py reads it: segments with their blocks at the end, and every event before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from willfit.allocator.blocks import Block
from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator
from willfit.estimator.replay import placed
from willfit.trace.recording import EMPTY_CACHE, Event, Recording
from willfit.units import MIB, round_up

_FIRST_ADDRESS: Final = 0x7F0000000000


def snapshot(recording: Recording, alloc_conf: str = "") -> dict[str, Any]:
    """``{"segments": […], "device_traces": [[…], …]}``: every device with all its events."""
    segments: list[dict[str, Any]] = []
    traces: list[list[dict[str, Any]]] = []
    for gpu in range(max(recording.gpus, default=0) + 1):
        writer = _Writer(recording.on(gpu), alloc_conf, gpu)
        segments += writer.segments()
        traces.append(writer.entries)
    return {"segments": segments, "device_traces": traces, "allocator_settings": {}}


class _Writer:
    def __init__(self, recording: Recording, alloc_conf: str, device: int) -> None:
        self._recording = recording
        self._device = device
        self._segments: dict[int, int] = {}
        self.entries: list[dict[str, Any]] = []
        self._frames: list[dict[str, Any]] = []
        self._next = _FIRST_ADDRESS
        self._allocator = Allocator(
            parse_alloc_conf(alloc_conf), new_address=self._segment, mapping=self._note
        )

    def segments(self) -> list[dict[str, Any]]:
        """Replay the events, which writes the entries, and describe what is there at the end."""
        held: dict[int, Event] = {}
        for event, address in placed(self._framed(), self._allocator):
            if event.num_bytes:
                held[address] = event
                self._note("alloc", address, event.num_bytes)
            elif event.handle == EMPTY_CACHE:
                self._give_back()
            else:
                made = held.pop(address)
                self._note("free_requested", address, made.num_bytes)
                self._note("free_completed", address, made.num_bytes)
        return [self._described(start, size, held) for start, size in self._ranges()]

    def _framed(self) -> Iterator[Event]:
        """The events; a segment that one of them needs has its frames too."""
        for event in self._recording.events:
            self._frames = _frames(event)
            yield event

    def _ranges(self) -> list[tuple[int, int]]:
        """Segments by address; of expandable ones every stretch that is mapped."""
        if not self._allocator.config.expandable_segments:
            return sorted(self._segments.items())
        ranges: list[tuple[int, int]] = []
        for block in sorted(self._every(), key=lambda block: block.address):
            start, size = ranges[-1] if ranges else (0, 0)
            before = block.prev
            if ranges and before is not None and before.mapped:
                ranges[-1] = start, size + block.size
            else:
                ranges.append((block.address, block.size))
        return ranges

    def _segment(self, num_bytes: int) -> int:
        address, self._next = self._next, self._next + round_up(num_bytes, 2 * MIB)
        if self._allocator.config.expandable_segments:
            return address  # addresses alone; pages are mapped one by one
        self._segments[address] = num_bytes
        self._note("segment_alloc", address, num_bytes)
        return address

    def _give_back(self) -> None:
        """Segments whose blocks are gone; the first block of one has its address."""
        blocks = {block.address for block in self._every()}
        for address in [start for start in self._segments if start not in blocks]:
            self._note("segment_free", address, self._segments.pop(address))

    def _note(self, action: str, address: int, num_bytes: int) -> None:
        self.entries.append(
            {
                "action": action,
                "addr": address,
                "size": num_bytes,
                "stream": 0,
                "time_us": len(self.entries),
                "frames": self._frames,
            }
        )

    def _described(self, start: int, size: int, held: Mapping[int, Event]) -> dict[str, Any]:
        blocks = [self._block(block, held) for block in self._blocks(start, size)]
        active = sum(block["size"] for block in blocks if block["state"] == "active_allocated")
        return {
            "device": self._device,
            "address": start,
            "total_size": size,
            "allocated_size": active,
            "active_size": active,
            "requested_size": sum(block["requested_size"] for block in blocks),
            "stream": 0,
            "segment_type": "small" if size <= 2 * MIB else "large",
            "segment_pool_id": (0, 0),
            "is_expandable": self._allocator.config.expandable_segments,
            "frames": [],
            "blocks": blocks,
        }

    def _blocks(self, start: int, size: int) -> list[Block]:
        inside = [block for block in self._every() if start <= block.address < start + size]
        return sorted(inside, key=lambda block: block.address)

    def _every(self) -> list[Block]:
        free = [b for pool in self._allocator.pools.values() for b in pool.free_blocks()]
        return [*free, *self._allocator.live.values()]

    def _block(self, block: Block, held: Mapping[int, Event]) -> dict[str, Any]:
        event = held.get(block.address)
        return {
            "address": block.address,
            "size": block.size,
            "requested_size": block.requested,
            "state": "active_allocated" if block.allocated else "inactive",
            "frames": _frames(event) if event is not None else [],
        }


def _frames(event: Event) -> list[dict[str, Any]]:
    """The operator, the module and the phase, as if they were Python frames."""
    module = event.place.module or "(outside the model)"
    return [
        {"name": event.place.op, "filename": module, "line": 0},
        {"name": event.phase, "filename": "phase", "line": 0},
    ]
