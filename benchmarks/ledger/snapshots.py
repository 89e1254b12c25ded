"""Recorded allocator traces as events and a start state."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from willfit.allocator.config import AllocatorConfig, parse_alloc_conf
from willfit.allocator.replay import Event, Segment
from willfit.errors import UnsupportedError
from willfit.units import MIB


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One trace: what was there, what happened, where new segments came to lie."""

    segments: list[Segment]
    events: list[Event]
    new_segments: list[int]
    config: AllocatorConfig


def recorded(path: Path) -> Recorded:
    """The trace in a file of events (``.events.json.gz``); may raise `WillfitError`."""
    with gzip.open(path) as file:
        trace = json.load(file)
    raw = trace["events"]
    settings = trace.get("allocator_settings") or {}
    config = parse_alloc_conf(settings.get("PYTORCH_CUDA_ALLOC_CONF") or "")
    if config.expandable_segments or any(s.get("expandable") for s in trace["final_segments"]):
        raise UnsupportedError("its segments are expandable: what is mapped is not in the stream")
    return Recorded(
        segments=_segments(raw, trace["final_segments"]),
        events=list(_events(raw)),
        new_segments=[address for action, address, _, _ in raw if action == "S"],
        config=config,
    )


def _events(raw: list[Any]) -> Iterator[Event]:
    """Frees when they complete; a run of segment frees is what ``empty_cache`` did."""
    before = ""
    for action, address, size, stream in raw:
        if action == "s" and before != "s":
            yield Event(handle=0, empties_cache=True)
        elif action in "af":
            yield Event(handle=address, num_bytes=size if action == "a" else 0, stream=stream)
        before = action


def _segments(raw: list[Any], final: list[Any]) -> list[Segment]:
    """Segments and blocks at the start: those at the end with the events taken back."""
    there = {s["address"]: (s["total"], s["type"] == "small", s["stream"]) for s in final}
    for action, address, size, stream in reversed(raw):
        if action == "S":
            there.pop(address)
        elif action == "s":
            there[address] = (size, size == 2 * MIB, stream)
    live = _live_at_start(raw, final)
    addresses = sorted(live)
    return [
        Segment(
            address=address,
            size=size,
            small=small,
            stream=stream,
            live=[
                (at, live[at])
                for at in addresses[
                    bisect_left(addresses, address) : bisect_left(addresses, address + size)
                ]
            ],
        )
        for address, (size, small, stream) in sorted(there.items())
    ]


def _live_at_start(raw: list[Any], final: list[Any]) -> dict[int, int]:
    ours: set[int] = set()
    live: dict[int, int] = {}
    for action, address, size, _ in raw:
        if action == "a":
            ours.add(address)
        elif action == "f" and address in ours:
            ours.remove(address)
        elif action == "f":
            live[address] = size
    for segment in final:
        for address, _, requested, state in segment["blocks"]:
            if state.startswith("active") and address not in ours:
                live[address] = requested
    return live
