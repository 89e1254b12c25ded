"""Plain data of a snapshot as its types; unknown keys are passed over, wrong types are not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from willfit.allocator.rounding import SMALL_SEGMENT
from willfit.doctor.report import Frame
from willfit.doctor.snapshots.contents import Block, Event, PoolId, Segment, Stack, State
from willfit.doctor.snapshots.opcodes import Foreign

MAX_BYTES: Final = 2**63
"""Sizes are below; what C++ writes as -1 is none."""
MAX_ALLOCATION: Final = 2**42
"""What was allocated is below: no device has 4 TiB; what failed may have asked for more."""
MAX_ADDRESS: Final = 2**57
"""Addresses of processes are below, on x86-64 with five levels of pages."""
MAX_FRAMES: Final = 4096
"""Of one stack; Python itself ends at 1,000 calls."""
_STATES: Final[dict[object, State]] = {
    "active_allocated": "allocated",
    "active_pending_free": "pending",
    "active_awaiting_free": "pending",
    "inactive": "free",
}
_USUAL: Final = (0, 0)
_LINES: Final = (int, type(None))
_PROFILED: Final = re.compile(r"(.{1,4096})\((\d{1,9})\): (.{1,1000})")
"""How torch's profiler names a Python call: ``torch/nn/modules/module.py(1527): _call_impl``."""


class Shapes:
    """Makes the types of one file; equal frames and equal stacks are one object."""

    def __init__(self) -> None:
        self._frames: dict[tuple[str, str, int | None], Frame] = {}
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._sound: dict[int, tuple[object, Stack]] = {}
        """Stacks by the identity of the tuples they were read as, which are kept."""

    def shaped(self, data: dict[str, Any]) -> Any:
        """An event or a frame in the place of its dictionary; others stay."""
        if "action" in data:
            return self.event(data)
        if "filename" in data:
            return self.frame(data)
        return data

    def event(self, data: dict[str, Any]) -> Event:
        """One entry of ``device_traces``."""
        get = data.get
        address, size, stream = get("addr", 0), get("size", 0), get("stream", 0)
        action, free, category = data["action"], get("device_free", 0), get("category", "")
        # one look at all numbers, for there are millions of events
        if not type(address) is type(size) is type(stream) is type(free) is int:
            raise Foreign("an event has an address, a size or a stream that is no whole number")
        most = MAX_ALLOCATION if action == "alloc" else MAX_BYTES
        if type(action) is not str or not (0 <= size < most and 0 <= address < MAX_ADDRESS):
            raise Foreign("an event has no action, or an address or a size out of range")
        pool = get("pool_id", _USUAL)
        return Event(
            action,
            address,
            size,
            stream,
            self.stack(get("frames", ())),
            _USUAL if pool == _USUAL else pool_of(pool),
            category if type(category) is str else "",
            max(0, free),
        )

    def frame(self, data: dict[str, Any]) -> Frame:
        """One line of a stack."""
        file, name, line = data.get("filename"), data.get("name"), data.get("line") or None
        if type(file) is not str or type(name) is not str or type(line) not in _LINES:
            raise Foreign("a frame has a file, a function or a line of another type")
        found = self._frames.get((file, name, line))
        if found is None:
            profiled = _PROFILED.fullmatch(name) if file == "none" else None
            if profiled is not None:
                found = Frame(file=profiled[1], function=profiled[3], line=int(profiled[2]))
            else:
                found = Frame(file=file, function=name, line=line)
            self._frames[file, name, line] = found
        return found

    def stack(self, frames: object) -> Stack:
        """Frames, most of them read before."""
        known = self._sound.get(id(frames))
        if known is not None:
            return known[1]
        if not isinstance(frames, (list, tuple)) or len(frames) > MAX_FRAMES:
            raise Foreign("the frames of an event or a block are no list of frames")
        made = tuple(map(self._framed, frames))
        stack = self._stacks.setdefault(tuple(map(id, made)), made)
        if type(frames) is tuple:
            self._sound[id(frames)] = (frames, stack)
        return stack

    def _framed(self, frame: object) -> Frame:
        if isinstance(frame, dict):
            return self.frame(frame)
        if not isinstance(frame, Frame):
            raise Foreign("the frames of an event or a block are no list of frames")
        return frame

    def segment(self, data: object) -> Segment:
        """One entry of ``segments``; of old releases too, whose blocks have no addresses."""
        if not isinstance(data, dict):
            raise Foreign("a segment is no dictionary")
        address, size = _amount(data, "address", most=MAX_ADDRESS), _amount(data, "total_size")
        blocks = data.get("blocks")
        if not isinstance(blocks, (list, tuple)):
            raise Foreign("a segment has no list of blocks")
        kind = data.get("segment_type")
        return Segment(
            gpu=_amount(data, "device", 0),
            address=address,
            num_bytes=size,
            stream=_amount(data, "stream", 0, 2 * MAX_BYTES),
            small=kind == "small" if isinstance(kind, str) else size <= SMALL_SEGMENT,
            expandable=data.get("is_expandable") is True,
            pool=pool_of(data.get("segment_pool_id", _USUAL)),
            blocks=self._blocks(blocks, address, size),
        )

    def _blocks(self, data: Iterable[object], address: int, size: int) -> tuple[Block, ...]:
        blocks = []
        position = address
        for item in data:
            if not isinstance(item, dict):
                raise Foreign("a block is no dictionary")
            block = self._block(item, position)
            position += block.num_bytes
            blocks.append(block)
        if position - address != size:
            raise Foreign(f"a segment of {size:,} bytes has blocks of {position - address:,} bytes")
        return tuple(blocks)

    def _block(self, data: dict[str, Any], address: int) -> Block:
        named = data.get("state")
        # no text is made of what is no text: it may be as deep as the file is long
        state = _STATES.get(named) if isinstance(named, str) else None
        if state is None:
            raise Foreign("a block is neither active nor inactive")
        size, latest = _amount(data, "size"), _latest(data)
        requested = _amount(latest, "real_size", size) if latest else size
        category = data.get("category", "")
        return Block(
            address=address,
            num_bytes=size,
            requested_bytes=0
            if state == "free"
            else min(_amount(data, "requested_size", requested), size),
            state=state,
            stack=self.stack(data.get("frames") or latest.get("frames") or ()),
            category=category if isinstance(category, str) else "",
        )


def pool_of(data: object) -> PoolId:
    """``(0, 0)``."""
    if isinstance(data, (list, tuple)) and len(data) == 2 and all(type(x) is int for x in data):
        return (data[0], data[1])
    raise Foreign("the name of a memory pool is no pair of numbers")


def _latest(block: dict[str, Any]) -> dict[str, Any]:
    """What torch before 2.1 says of a block's last tenant: {"addr", "real_size", "frames"}."""
    history = block.get("history")
    if isinstance(history, (list, tuple)) and history and isinstance(history[0], dict):
        return history[0]
    return {}


def _amount(
    data: dict[str, Any], key: str, default: int | None = None, most: int = MAX_BYTES
) -> int:
    value = data.get(key, default)
    if type(value) is not int or not 0 <= value < most:
        raise Foreign(f"{key!r} is no amount of bytes or out of range")
    return value
