"""Leaks: lines that allocated in every round of a loop and of which nothing was freed.

Where a loop is shows in the recorded stacks: outside of any module's forward pass, a line runs
again after other lines of its function. Without stacks nothing is claimed, nor where the whole
body of a loop is one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final

from willfit.doctor.report import Frame
from willfit.doctor.snapshots.contents import Event, Stack
from willfit.doctor.snapshots.explanation import Growth, line_use
from willfit.doctor.snapshots.moment import Moment, Tenant
from willfit.doctor.snapshots.places import Place, Places

MIN_ROUNDS: Final = 3
"""Rounds before growth is one: two may be a warm-up, which allocates what stays."""
_SHARE: Final = 0.8
"""Of the rounds since the line first ran, in how many it must have allocated."""
_KEPT: Final = frozenset({"weights", "optimizer_states", "kv_cache", "workspaces"})
"""What is loaded or made once, however many rounds that takes."""
_MOST: Final = 8
"""Lines looked at, of those that hold most."""
_DEEPEST: Final = 64
"""Frames looked at, from the outermost: loops over steps are not far from it."""
_MODULE: Final = frozenset({"_call_impl", "_wrapped_call_impl", "forward"})


def growing(trace: Sequence[Event], then: Moment, places: Places) -> tuple[Growth, ...]:
    """Lines that grew, largest first."""
    tenants: dict[Place, list[Tenant]] = {}
    for tenant in then.tenants:
        if tenant.since is not None and tenant.stack:
            place = places.of(tenant.stack, tenant.category)
            if place.category not in _KEPT:
                tenants.setdefault(place, []).append(tenant)
    candidates = {place: held for place, held in tenants.items() if len(held) >= MIN_ROUNDS}
    if not candidates:
        return ()
    freed = _freed(trace, set(candidates), places)
    kept = [(place, held) for place, held in candidates.items() if not freed[place]]
    if not kept:
        return ()
    runs = _runs(trace)
    uses = sorted(kept, key=lambda item: -sum(tenant.num_bytes for tenant in item[1]))
    found = [_growth(place, held, trace, runs) for place, held in uses[:_MOST]]
    return tuple(growth for growth in found if growth is not None)


def _freed(trace: Sequence[Event], wanted: set[Place], places: Places) -> Counter[Place]:
    """How many blocks of each place were freed again."""
    made: dict[int, Place] = {}
    freed: Counter[Place] = Counter()
    for event in trace:
        if event.action == "alloc":
            place = places.of(event.stack, event.category)
            if place in wanted:
                made[event.address] = place
        elif event.action == "free_completed" and event.address in made:
            freed[made.pop(event.address)] += 1
    return freed


Outer = tuple[Frame, ...]
"""Frames outside of any module's forward pass, outermost first."""


@dataclass(frozen=True)
class _Runs:
    """The events in runs of equal outer frames."""

    outers: list[Outer]
    """Each that occurs, once."""
    starts: list[tuple[int, int]]
    """(number of a run's first event, index of its outer frames)."""


def _runs(trace: Sequence[Event]) -> _Runs:
    known: dict[Outer, int] = {}
    by_stack: dict[int, int] = {}
    starts: list[tuple[int, int]] = []
    last = -1
    for position, event in enumerate(trace):
        stack = event.stack
        if not stack:
            continue
        index = by_stack.get(id(stack))
        if index is None:
            index = by_stack[id(stack)] = known.setdefault(_outer(stack), len(known))
        if index != last:
            starts.append((position, index))
            last = index
    return _Runs(list(known), starts)


def _outer(stack: Stack) -> Outer:
    outer = takewhile(lambda frame: frame.function not in _MODULE, reversed(stack))
    return tuple(islice(outer, _DEEPEST))


def _growth(
    place: Place, held: Sequence[Tenant], trace: Sequence[Event], runs: _Runs
) -> Growth | None:
    made = sorted(tenant.since for tenant in held if tenant.since is not None)
    path = _outer(trace[made[-1]].stack)
    for depth, rounds in enumerate(_rounds(path, made, runs)):
        if len(rounds) >= MIN_ROUNDS and len(rounds) >= _SHARE * (rounds[-1] - rounds[0] + 1):
            return Growth(use=line_use(place, held), rounds=len(rounds), loop=path[depth])
    return None


def _rounds(path: Outer, made: Sequence[int], runs: _Runs) -> list[list[int]]:
    """By depth of a path, outermost first, the rounds in which something was made.

    A round at a depth begins where the path's line runs again after another line of its function.
    """
    shared = [_shared(path, outer) for outer in runs.outers]
    count = [0] * len(path)
    left: set[int] = set()
    found: list[list[int]] = [[] for _ in path]
    ends = [start for start, _ in runs.starts[1:]] + [made[-1] + 1]
    at = 0
    for (_, index), end in zip(runs.starts, ends, strict=True):
        depth, leaves = shared[index]
        if left:
            for back in [level for level in left if level < depth]:
                left.remove(back)
                count[back] += 1
        if leaves:
            left.add(depth)
        while at < len(made) and made[at] < end:
            for level in range(depth):
                if not found[level] or found[level][-1] != count[level]:
                    found[level].append(count[level])
            at += 1
    return found


def _shared(path: Outer, outer: Outer) -> tuple[int, bool]:
    """How many frames two paths share, and whether they then run two lines of one function."""
    depth = 0
    while depth < min(len(path), len(outer)) and path[depth] == outer[depth]:
        depth += 1
    if depth == min(len(path), len(outer)):
        return depth, False
    one, other = path[depth], outer[depth]
    return depth, (one.file, one.function) == (other.file, other.function)
