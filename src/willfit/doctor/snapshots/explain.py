"""`explain`: what filled each GPU at the failure, by line of code and by purpose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from willfit.allocator.rounding import LARGE_SEGMENT, SMALL_SEGMENT, SMALL_SIZE, segment_bytes
from willfit.doctor.snapshots.contents import Event, Snapshot
from willfit.doctor.snapshots.explanation import (
    CategoryUse,
    Explanation,
    FailedRequest,
    GpuExplanation,
    LineUse,
    line_use,
)
from willfit.doctor.snapshots.growth import growing
from willfit.doctor.snapshots.moment import Moment, Tenant, moment
from willfit.doctor.snapshots.places import Place, Places
from willfit.doctor.snapshots.stretches import Stretch
from willfit.units import round_up

_LARGEST: Final = 8
"""Sizes shown of the largest blocks."""


def explain(
    snapshot: Snapshot, gpu: int | None = None, *, total_bytes: int | None = None
) -> Explanation:
    """Every GPU of a snapshot, or one; at its last ``oom`` event, or at the end without one.

    ``total_bytes``: memory of the device, which a snapshot does not tell.
    """
    gpus = [index for index in snapshot.gpus if gpu in (None, index)]
    return Explanation(
        gpus=tuple(_explained(snapshot, index, total_bytes) for index in gpus),
        notes=tuple(_notes(snapshot)),
    )


def failure_position(trace: Sequence[Event]) -> int | None:
    """Number of the last ``oom`` event."""
    for position in range(len(trace) - 1, -1, -1):
        if trace[position].action == "oom":
            return position
    return None


def _explained(snapshot: Snapshot, gpu: int, total_bytes: int | None) -> GpuExplanation:
    trace, segments = snapshot.trace(gpu), snapshot.on(gpu)
    position = failure_position(trace)
    then = moment(segments, trace, len(trace) if position is None else position)
    places = Places(stacks=any(event.stack for event in trace))
    failure = None if position is None else _failure(trace[position], position, then, places)
    live, reserved = then.live_bytes, then.reserved_bytes
    private = sum(
        s for stretch in then.stretches for _, s in then.gaps(stretch) if any(stretch.pool)
    )
    cached = sum(whole_bytes(then, stretch) for stretch in then.stretches if not any(stretch.pool))
    outside = None
    if failure is not None and total_bytes is not None:
        outside = max(0, total_bytes - failure.free_bytes - reserved)
    return GpuExplanation(
        gpu=gpu,
        failure=failure,
        num_events=len(trace),
        num_failures=sum(event.action == "oom" for event in trace),
        reserved_bytes=reserved,
        live_bytes=live,
        requested_bytes=sum(tenant.requested_bytes for tenant in then.tenants),
        pending_bytes=sum(tenant.num_bytes for tenant in then.tenants if tenant.pending),
        cached_bytes=cached,
        fragmentation_bytes=reserved - live - cached - private,
        private_bytes=private,
        largest_free_bytes=max(
            (size for stretch in then.stretches for _, size in then.gaps(stretch)), default=0
        ),
        peak_reserved_bytes=_peak_reserved(trace, position, reserved),
        total_bytes=total_bytes,
        outside_bytes=outside,
        categories=_categories(then, places),
        lines=_lines(then.tenants, places),
        largest=_largest(then, places),
        earlier=_lines([t for t in then.tenants if t.since is None], places) if trace else (),
        growing=growing(trace, then, places),
        num_segments=len(then.stretches),
    )


def whole_bytes(then: Moment, stretch: Stretch) -> int:
    """What of a segment is given back when the device is full: all of it, or its free pages."""
    gaps = list(then.gaps(stretch))
    if not stretch.expandable:
        return stretch.num_bytes if gaps == [(stretch.address, stretch.num_bytes)] else 0
    page = SMALL_SEGMENT if stretch.small else LARGE_SEGMENT
    pages = 0
    for address, size in gaps:
        start = round_up(address - stretch.address, page)
        pages += max(0, (address + size - stretch.address) // page * page - start)
    return pages


def _failure(event: Event, position: int, then: Moment, places: Places) -> FailedRequest:
    place = places.of(event.stack)
    serving = [
        size
        for stretch in then.stretches
        if stretch.small == (event.num_bytes <= SMALL_SIZE)
        and (stretch.stream, stretch.pool) == (event.stream, event.pool)
        for _, size in then.gaps(stretch)
    ]
    tried = segment_bytes(event.num_bytes)
    return FailedRequest(
        position=position,
        requested_bytes=event.num_bytes,
        segment_bytes=tried,
        free_bytes=event.free_bytes,
        user=place.user,
        library=place.library,
        largest_free_bytes=max(serving, default=0),
        fits_together=sum(serving) + event.free_bytes >= event.num_bytes,
        capped=event.free_bytes >= tried,
    )


def _peak_reserved(trace: Sequence[Event], position: int | None, reserved: int) -> int:
    """The most that was reserved up to a position, from what was reserved then, backwards."""
    peak = reserved
    for index in range((len(trace) if position is None else position) - 1, -1, -1):
        action, _, num_bytes = trace[index][:3]
        if action in ("segment_alloc", "segment_map"):
            reserved -= num_bytes
        elif action in ("segment_free", "segment_unmap"):
            reserved += num_bytes
            peak = max(peak, reserved)
    return peak


def _lines(tenants: Iterable[Tenant], places: Places) -> tuple[LineUse, ...]:
    found: dict[Place, list[Tenant]] = {}
    for tenant in tenants:
        found.setdefault(places.of(tenant.stack, tenant.category), []).append(tenant)
    uses = [line_use(place, held) for place, held in found.items()]
    return tuple(sorted(uses, key=lambda use: -use.num_bytes))


def _largest(then: Moment, places: Places) -> tuple[LineUse, ...]:
    found: dict[tuple[int, Place], list[Tenant]] = {}
    for tenant in then.tenants:
        key = (tenant.num_bytes, places.of(tenant.stack, tenant.category))
        found.setdefault(key, []).append(tenant)
    ordered = sorted(found.items(), key=lambda item: -item[0][0])
    return tuple(line_use(place, held) for (_, place), held in ordered[:_LARGEST])


def _categories(then: Moment, places: Places) -> tuple[CategoryUse, ...]:
    totals: dict[str, list[int]] = {}
    for tenant in then.tenants:
        place = places.of(tenant.stack, tenant.category)
        total = totals.setdefault(place.category, [0, 0])
        total[0] += tenant.num_bytes
        total[1] += tenant.num_bytes * place.guessed
    uses = [
        CategoryUse(name=name, num_bytes=whole, guessed_bytes=guessed)
        for name, (whole, guessed) in totals.items()
    ]
    return tuple(sorted(uses, key=lambda use: -use.num_bytes))


def _notes(snapshot: Snapshot) -> Iterable[str]:
    if not any(snapshot.traces):
        yield (
            "nothing was recorded before the snapshot, so it shows what was there and no failure: "
            "call torch.cuda.memory._record_memory_history() at the start"
        )
        return
    events = [event for trace in snapshot.traces for event in trace[:1000]]
    if not any(event.stack for event in events):
        yield "the recording has no stacks, so no line of code is named"
