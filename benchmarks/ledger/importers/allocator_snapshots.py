"""Recorded streams of allocations (``torch.cuda.memory._dump_snapshot``), replayed.

Each is what a real process asked of the caching allocator. The simulated one gets the same requests
from the same start, and what it has reserved and allocated is compared. Nothing of a model is
estimated here, and what the stream itself says (its requests, its start) counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.ledger.row import About, Computed, NotExpressed, PublishedRow
from benchmarks.ledger.snapshots import recorded
from willfit.allocator.replay import replay, restore
from willfit.allocator.simulator import Allocator
from willfit.errors import UnsupportedError

ABOUT: Final = About(
    title="Recorded allocator snapshots, replayed",
    notes=(
        "Reserved memory is the recorded one to the byte in all 21 streams, whether they begin "
        "with an empty device, with cached segments, or empty the cache on the way.",
        "Which 1 MiB rests belong to blocks that were alive before the stream began is not in it.",
    ),
)


class _Replayed(NamedTuple):
    peak_reserved: int
    reserved: int
    allocated: int


_READ: Final[dict[str, Callable[[_Replayed], int]]] = {
    "peak reserved during trace": lambda found: found.peak_reserved,
    "final reserved": lambda found: found.reserved,
    "final allocated (rounded)": lambda found: found.allocated,
}
_GIVEN: Final = ("reserved at trace start", "requested bytes live at trace start")
_REQUESTED: Final = ("peak requested bytes during trace", "final requested")


def express(row: PublishedRow) -> Iterator[NotExpressed]:
    """Nothing: there is no model whose memory formulas could tell."""
    for entry in row["measured"]:
        reason = "a stream of allocations is replayed by the simulated allocator, at trace level"
        yield NotExpressed(kind=entry["kind"], reason=reason)


def express_by_trace(row: PublishedRow) -> Iterator[Computed | NotExpressed]:
    """Reserved and allocated bytes by the simulated allocator."""
    for entry in row["measured"]:
        kind = entry["kind"]
        if kind in _GIVEN:
            yield NotExpressed(kind=kind, reason="the start of a replay, which is given")
        elif kind in _REQUESTED:
            yield NotExpressed(kind=kind, reason="the sum of the requests, which are given")
        elif kind not in _READ:
            yield NotExpressed(kind=kind, reason="the simulated allocator has no such counter")
        elif not row.get("events"):
            yield NotExpressed(kind=kind, reason="the snapshot has segments and no events")
        else:
            yield Computed(kind=kind, num_bytes=partial(_counter, row["events"], kind))


def _counter(events: str, kind: str) -> int:
    return _READ[kind](_replayed(events))


@lru_cache(maxsize=1)
def _replayed(events: str) -> _Replayed:
    """The counters after a whole stream, at addresses of the simulated allocator's own."""
    try:
        trace = recorded(Path(events))
    except OSError as error:
        raise UnsupportedError(f"its events cannot be read: {type(error).__name__}") from None
    allocator = Allocator(trace.config)
    restore(allocator, trace.segments)
    for _ in replay(trace.events, allocator):
        pass
    return _Replayed(
        allocator.peak_reserved_bytes, allocator.reserved_bytes, allocator.allocated_bytes
    )
