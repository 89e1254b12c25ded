"""Memory snapshots in torch's form: of a program run through the simulated allocator, and real."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from willfit.allocator.blocks import Block
from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator, SimulatedOutOfMemory
from willfit.units import MIB, round_up

FIRST = 0x7F0000000000
_ACTIONS = {
    "a": "alloc",
    "r": "free_requested",
    "f": "free_completed",
    "S": "segment_alloc",
    "s": "segment_free",
}


def frame(file: str, line: int, name: str = "<module>") -> dict[str, Any]:
    return {"filename": file, "line": line, "name": name}


class Recorder:
    """A program on one GPU: `alloc` and `free` by name, recorded as torch records them."""

    def __init__(self, alloc_conf: str = "", capacity: int | None = None, gpu: int = 0) -> None:
        self.alloc_conf, self.gpu = alloc_conf, gpu
        self.allocator = Allocator(
            parse_alloc_conf(alloc_conf), capacity_bytes=capacity, new_address=self._address
        )
        self.entries: list[dict[str, Any]] = []
        self.made: dict[int, tuple[int, list[dict[str, Any]]]] = {}
        self.names: dict[str, int] = {}
        self._next = FIRST
        self._mapped: dict[int, int] = {}

    def alloc(self, name: str, size: int, *frames: dict[str, Any]) -> bool:
        """Whether there was memory; ``frames`` innermost first."""
        stack = list(frames)
        try:
            address = self.allocator.malloc(size)
        except SimulatedOutOfMemory as error:
            self._segments(stack)
            self._note("oom", stack, size=round_up(size, 512), device_free=error.state.free_bytes)
            return False
        self._segments(stack)
        self._note("alloc", stack, addr=address, size=size)
        self.made[address] = (size, stack)
        self.names[name] = address
        return True

    def free(self, *names: str) -> None:
        for name in names:
            address = self.names.pop(name)
            size, stack = self.made.pop(address)
            self._note("free_requested", stack, addr=address, size=size)
            self._note("free_completed", stack, addr=address, size=size)
            self.allocator.free(address)

    def empty_cache(self) -> None:
        self.allocator.empty_cache()
        self._segments([frame("/x/site-packages/torch/cuda/memory.py", 1, "empty_cache")])

    def forget(self) -> None:
        """As if the recording began only now."""
        self.entries.clear()

    def snapshot(self) -> dict[str, Any]:
        settings = {"PYTORCH_CUDA_ALLOC_CONF": self.alloc_conf, "max_split_size": -1}
        return {
            "segments": [self._segment(start, end) for start, end in self._ranges()],
            "device_traces": [[]] * self.gpu + [self.entries],
            "allocator_settings": settings,
        }

    def pickled(self, protocol: int = 4) -> bytes:
        return pickle.dumps(self.snapshot(), protocol)

    def _address(self, num_bytes: int) -> int:
        address = self._next
        self._next += min(round_up(num_bytes, 2 * MIB), 2**38)
        return address

    def _note(self, action: str, stack: list[dict[str, Any]], **values: int) -> None:
        entry = {"action": action, **values, "stream": 0, "time_us": len(self.entries)}
        self.entries.append({**entry, "frames": stack})

    def _every(self) -> list[Block]:
        pools = self.allocator.pools.values()
        free = [block for pool in pools for block in pool.free_blocks()]
        return sorted([*free, *self.allocator.live.values()], key=lambda block: block.address)

    def _pieces(self) -> dict[int, int]:
        """Bytes by address: whole segments, or the pages of expandable ones."""
        pieces: dict[int, int] = {}
        for block in self._every():
            if block.base is not None:
                first, last = (
                    block.address // (2 * MIB),
                    (block.address + block.size - 1) // (2 * MIB),
                )
                pieces.update({page * 2 * MIB: 2 * MIB for page in range(first, last + 1)})
            elif block.prev is None:
                size, part = 0, block
                while part is not None:
                    size, part = size + part.size, part.next
                pieces[block.address] = size
        return pieces

    def _segments(self, stack: list[dict[str, Any]]) -> None:
        """Note what was taken from the device or given back since the last look."""
        grows = self.allocator.config.expandable_segments
        now = self._pieces()
        names = ("segment_unmap", "segment_map") if grows else ("segment_free", "segment_alloc")
        for start, end in _runs({a: s for a, s in self._mapped.items() if a not in now}, grows):
            self._note(names[0], stack, addr=start, size=end - start)
        for start, end in _runs({a: s for a, s in now.items() if a not in self._mapped}, grows):
            self._note(names[1], stack, addr=start, size=end - start)
        self._mapped = now

    def _ranges(self) -> list[tuple[int, int]]:
        return _runs(self._pieces(), self.allocator.config.expandable_segments)

    def _segment(self, start: int, end: int) -> dict[str, Any]:
        blocks = [block for block in self._every() if start <= block.address < end]
        described = [self._block(block) for block in blocks]
        return {
            "device": self.gpu,
            "address": start,
            "total_size": end - start,
            "stream": 0,
            "segment_type": "small" if blocks[0].pool.small else "large",
            "segment_pool_id": (0, 0),
            "is_expandable": blocks[0].base is not None,
            "frames": [],
            "blocks": described,
        }

    def _block(self, block: Block) -> dict[str, Any]:
        size, stack = self.made.get(block.address, (0, []))
        return {
            "address": block.address,
            "size": block.size,
            "requested_size": size,
            "state": "active_allocated" if block.allocated else "inactive",
            "frames": stack if block.allocated else [],
        }


def _runs(pieces: dict[int, int], joined: bool) -> list[tuple[int, int]]:
    """Pieces as (start, end), neighbours as one where they are pages."""
    runs: list[tuple[int, int]] = []
    for address, size in sorted(pieces.items()):
        if joined and runs and runs[-1][1] == address:
            runs[-1] = (runs[-1][0], address + size)
        else:
            runs.append((address, address + size))
    return runs


def real_snapshot(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``allocator_snapshots.jsonl`` in the form that it had before it was shortened."""
    with gzip.open(folder / row["events"]) as file:
        data = json.load(file)
    trace = [
        {"action": _ACTIONS[action], "addr": address, "size": size, "stream": stream, "frames": []}
        for action, address, size, stream in data["events"]
    ]
    segments = [_real_segment(segment) for segment in data["final_segments"]]
    return {"segments": segments, "device_traces": [trace]}


def _real_segment(segment: dict[str, Any]) -> dict[str, Any]:
    keys = ("address", "size", "requested_size", "state")
    blocks: Sequence[Any] = segment["blocks"]
    return {
        "device": 0,
        "address": segment["address"],
        "total_size": segment["total"],
        "stream": segment["stream"],
        "segment_type": segment["type"],
        "blocks": [dict(zip(keys, block, strict=True)) for block in blocks],
    }
