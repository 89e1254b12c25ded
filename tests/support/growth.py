"""How much longer work takes for more input: the law that a reader of hostile text must keep.

Speed has its place in benchmarks. A square where a line is due is a fault, though, and shows
only in time (regular expressions count nothing). So the ratio is judged, of processor time,
with the collector of garbage at rest (what other tests left behind is not this work's), and
again when it fails: noise passes, a square stays.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

ROUNDS = 5


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time of one call of `work`, in seconds, without collections of garbage."""
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        work()
        return time.process_time() - began
    finally:
        gc.enable()


def ends_within(work: Callable[[], object], seconds: float) -> bool:
    """Whether one of a few calls of `work` takes less than `seconds` of processor time."""
    return any(seconds_of(work) < seconds for _ in range(ROUNDS))


def grows_at_most(
    times: float, short: Callable[[], object], long: Callable[[], object], *, least: float = 0.02
) -> bool:
    """Whether `long` takes less than `times` as long as `short`, in one of a few rounds.

    `least` (seconds) stands in for a shorter time of `short`: such times are mostly noise.
    """
    return any(seconds_of(long) < times * max(seconds_of(short), least) for _ in range(ROUNDS))
