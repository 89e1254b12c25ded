"""What one call allocates, event by event, and how long it takes."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from willfit.live.measurement import error_text

Row = dict[str, Any]
_CLEAR: Final[dict[str, Any]] = (
    {"clear_history": True}
    if "clear_history" in inspect.getsource(torch.cuda.memory._record_memory_history)
    else {}
)
LONGEST: Final = 70.0
"""Seconds after which a probe takes no further row, so that those it has are kept."""
EVENTS: Final = 80
"""Allocations and frees of a call that are kept."""


def watched(run: Callable[[], Any], device: str, *, listed: bool = True) -> tuple[Any, Row]:
    """What ``run`` gives, and the bytes above those before it: peak, held, and each event."""
    if device != "cuda":
        return run(), {"peak": 0, "held": 0, "events": []}
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    history: Any = torch.cuda.memory._record_memory_history
    if listed:
        history(enabled="all", context=None, max_entries=2_000, **_CLEAR)
    try:
        found = run()
        torch.cuda.synchronize()
        row: Row = {
            "peak": torch.cuda.max_memory_allocated() - before,
            "held": torch.cuda.memory_allocated() - before,
        }
        if listed:
            trace = torch.cuda.memory._snapshot()["device_traces"][0]
            row["events"] = _sizes(trace)[:EVENTS]
    finally:
        if listed:
            history(enabled=None)
    return found, row


def _sizes(trace: list[Any]) -> list[int]:
    """+size of what was allocated, −size of what was freed, in order."""
    signs = {"alloc": 1, "free_requested": -1}
    return [signs[e["action"]] * e["size"] for e in trace if e["action"] in signs]


def seconds_of(run: Callable[[], Any], device: str, times: int = 20) -> float:
    """Median seconds of a call after two to warm up."""
    found = []
    for index in range(times + 2):
        if device == "cuda":
            event: Any = torch.cuda.Event
            start, end = (event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            spent = start.elapsed_time(end) / 1e3
        else:
            began = time.perf_counter()
            run()
            spent = time.perf_counter() - began
        if index >= 2:
            found.append(spent)
    return float(sorted(found)[len(found) // 2])


def attempts(rows: Iterator[Callable[[], Row]], seconds: float = LONGEST) -> list[Row]:
    """Each row, or the reason why there is none; those that time is left for."""
    found: list[Row] = []
    end = time.monotonic() + seconds
    for make in rows:
        if time.monotonic() > end:
            found.append({"failure": f"not tried: {seconds:.0f} s were over"})
            break
        try:
            found.append(make())
        except Exception as error:  # a refusal is a fact too
            found.append({"failure": error_text(error, 240)})
    return found


def backward(out: Any, grad: torch.Tensor | None = None) -> None:
    """Backward of a result, of its sum where no gradient is given."""
    if grad is None:
        out.sum().backward()
    else:
        out.backward(grad)
