"""What was alive at the peak of a stretch, by the line of code that asked for it (CUDA alone)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from willfit.live.measurement import Alive

LARGEST_SHOWN: Final = 60
"""Entries of `Alive` that are kept."""
HISTORY: Final = 400_000
"""Allocator events that are kept of a step."""
_FOREIGN: Final = ("torch/nn/", "torch/_", "torch/utils", "torch/autograd", "torch/cuda")


@contextmanager
def history(found: list[Alive]) -> Iterator[None]:
    """Keep every allocation inside with its line of code; ``found`` then has the peak's."""
    import torch

    record: Any = torch.cuda.memory._record_memory_history
    record(enabled="all", context="alloc", stacks="python", max_entries=HISTORY)
    try:
        yield
        torch.cuda.synchronize()
        found[:] = _kept()
    finally:
        record(enabled=None)


def _kept() -> tuple[Alive, ...]:
    """Of the present GPU; nothing where a release tells it otherwise: no reading needs it."""
    import torch

    try:
        events = torch.cuda.memory._snapshot()["device_traces"]
        return alive_at_peak(events[torch.cuda.current_device()])
    except (KeyError, IndexError, MemoryError):
        return ()


def alive_at_peak(events: list[Mapping[str, Any]]) -> tuple[Alive, ...]:
    """Blocks of these events that were alive when most was; older blocks are not among them."""
    live: dict[int, tuple[int, str]] = {}
    total = most = 0
    best: dict[int, tuple[int, str]] = {}
    grown = False
    for event in events:
        if event["action"] == "alloc":
            live[event["addr"]] = (event["size"], _where(event.get("frames", ())))
            total += event["size"]
            grown = True
        elif event["action"] == "free_requested" and event["addr"] in live:
            if grown and total > most:
                most, best = total, dict(live)
            grown = False
            total -= live.pop(event["addr"])[0]
    if total > most:
        best = live
    counted = Counter(best.values())
    rows = [Alive(where=where, num_bytes=size, count=n) for (size, where), n in counted.items()]
    rows.sort(key=lambda row: -row.num_bytes * row.count)
    return tuple(rows[:LARGEST_SHOWN])


def _where(frames: Any) -> str:
    """The innermost line outside of torch."""
    for frame in frames:
        name = str(frame.get("filename", ""))
        if name and not any(part in name for part in _FOREIGN):
            return f"{Path(name).name}:{frame.get('line')} {frame.get('name')}"
    return ""
