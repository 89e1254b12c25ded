"""What is alive where most is allocated in a replayed run, by module and operator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from willfit.estimator.replay import ReplayedPhase
from willfit.results import Alive
from willfit.trace.recording import EMPTY_CACHE, Event, Handle, Recording

LISTED: Final = 10
"""Kinds of storages that a report lists."""
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")


def largest_alive(recording: Recording, phases: Sequence[ReplayedPhase]) -> tuple[Alive, ...]:
    """What is alive where most is allocated, by module and operator, the largest first.

    Loading is left out where work follows.
    """
    working = [phase for phase in phases if phase.name != "load"] or phases
    position = max(working, key=lambda phase: phase.allocated_bytes).position
    alive: dict[Handle, Event] = {}
    for event in recording.events[: position + 1]:
        if event.num_bytes:
            alive[event.handle] = event
        elif event.handle != EMPTY_CACHE:
            del alive[event.handle]
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for event in alive.values():
        key = (_NUMBER.sub("*", event.place.module), event.place.op, event.phase)
        amount, count = sums.get(key, (0, 0))
        sums[key] = (amount + event.num_bytes, count + 1)
    ranked = sorted(sums.items(), key=lambda item: -item[1][0])[:LISTED]
    return tuple(
        Alive(module=module, op=op, phase=phase, num_bytes=amount, count=count)
        for (module, op, phase), (amount, count) in ranked
    )
