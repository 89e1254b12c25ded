"""Decoding to the end from three steps: later ones differ by the length of the cache alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from willfit.allocator.rounding import SMALL_SIZE
from willfit.trace.recording import Event, Handle, Recording
from willfit.trace.repeat import NotRepeating

LARGEST_STREAM: Final = 200_000
"""Events of the traced layers that decoding is followed for; past it steps are left out."""
WHOLE_STEPS: Final = 2
"""Last steps of which every event is kept: a growing step's peak is in the last."""


class _Later(NamedTuple):
    """Handle of a storage of a step that was not run."""

    original: Handle
    step: int
    kind: str = "later step"


def extended(recording: Recording, starts: Sequence[int], steps: int) -> tuple[Recording, bool]:
    """The recording with all decoding steps, and whether each of them is in it.

    ``starts``: where the steps that were run begin in the events, and where the last ends. Sizes
    go on as they grew from the second to the third. Between the steps that were run and the last
    `WHOLE_STEPS`, what comes and goes within a step and fits the allocator's small pool is left
    out: that pool shares no segment with the large one, where the cache leaves its holes. Raises
    `NotRepeating` where the second and third differ in more than sizes.
    """
    first, second, third, end = starts[-4:]
    stream = _Steps(
        recording.events[first:second],
        recording.events[second:third],
        recording.events[third:end],
    )
    ran = len(starts) - 1
    todo = range(ran + 1, steps + 1)
    followed = max(LARGEST_STREAM // max(stream.kept(steps - ran), 1), 2 * WHOLE_STEPS)
    complete = len(todo) <= followed
    chosen = todo if complete else [*todo[: followed // 2], *todo[-WHOLE_STEPS:]]
    events = recording.events[:end]
    categories = dict(recording.categories)
    for number, step in enumerate(chosen, 1):
        whole = step > steps - WHOLE_STEPS
        for event, original in stream.step(number, step - ran, whole=whole):
            if event.num_bytes and original in categories:
                categories[event.handle] = categories[original]
            events.append(event)
    return recording.with_events(events, categories), complete


class _Steps:
    """The third step as a pattern for those after it."""

    def __init__(self, first: list[Event], second: list[Event], third: list[Event]) -> None:
        if len(second) != len(third):
            raise NotRepeating(f"decoding steps differ: {len(second)} and {len(third)} events")
        self._third = third
        self._growth = [b.num_bytes - a.num_bytes for a, b in zip(second, third, strict=True)]
        mine = {event.handle: number for number, event in enumerate(third) if event.num_bytes}
        before = {event.handle: number for number, event in enumerate(second) if event.num_bytes}
        earlier = {event.handle: number for number, event in enumerate(first) if event.num_bytes}
        for a, b in zip(second, third, strict=True):
            own = mine.get(b.handle) == before.get(a.handle) and (b.handle in mine)
            taken_over = before.get(b.handle) == earlier.get(a.handle) and b.handle in before
            same = a.handle == b.handle
            if a.phase != b.phase or bool(a.num_bytes) != bool(b.num_bytes):
                raise NotRepeating("decoding steps differ in their events")
            if not (own or taken_over or same):
                raise NotRepeating("decoding steps differ in what they free")
        self._mine = mine
        self._before = before
        self._passing = {e.handle for e in third if not e.num_bytes and e.handle in mine}

    def kept(self, distance: int) -> int:
        """Events of a step that many tokens on, of which not all are kept."""
        return sum(1 for _ in self.step(1, distance, whole=False))

    def step(self, number: int, distance: int, *, whole: bool) -> Iterator[tuple[Event, Handle]]:
        """Events of the ``number``-th step after the third, ``distance`` tokens on."""
        dropped: set[Handle] = set()
        for event, growth in zip(self._third, self._growth, strict=True):
            amount = event.num_bytes + growth * distance if event.num_bytes else 0
            if not whole and 0 < amount <= SMALL_SIZE and event.handle in self._passing:
                dropped.add(event.handle)
            if event.handle not in dropped:
                handle = self._handle(event.handle, number)
                yield event._replace(handle=handle, num_bytes=amount), event.handle

    def _handle(self, handle: Handle, number: int) -> Handle:
        if handle in self._mine:
            return _Later(handle, number)
        at = self._before.get(handle)
        if at is None:
            return handle
        original = self._third[at].handle  # what the step before allocated in its place
        return original if number == 1 else _Later(original, number - 1)
