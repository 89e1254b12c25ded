"""`replayed`: whether other allocator settings would have served the request that failed.

The recorded allocations and frees go through the simulated allocator: first with the settings of
the recording, which must give what was recorded, and then with others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.rounding import segment_bytes
from willfit.doctor.snapshots.contents import Event, Snapshot
from willfit.doctor.snapshots.explain import failure_position
from willfit.doctor.snapshots.moment import Moment, moment
from willfit.doctor.snapshots.outcome import Outcome, Reproduction
from willfit.doctor.snapshots.rerun import Rerun, rerun
from willfit.doctor.snapshots.settings import recorded_conf
from willfit.errors import InputError
from willfit.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One GPU's recording, and its replay with its own settings."""

    gpu: int
    events: Sequence[Event]
    """Up to the failure, which is the last; all without one."""
    before: Moment
    """What was there before them."""
    after: Moment
    """What was there when the request failed, or at the end."""
    capacity_bytes: int | None
    """What could be reserved then; None without a failure."""
    reproduction: Reproduction


def reproduced(snapshot: Snapshot, gpu: int | None = None) -> Recorded:
    """Replay a recording with its own settings; ``gpu``: the first that failed, else the busiest.

    Raises `InputError` where nothing was recorded.
    """
    gpu = _chosen(snapshot) if gpu is None else gpu
    trace, segments = snapshot.trace(gpu), snapshot.on(gpu)
    if not trace:
        raise InputError(
            f"GPU {gpu} has no recorded events in this snapshot, and without them nothing can be "
            "replayed: call torch.cuda.memory._record_memory_history() before the part that fails"
        )
    position = failure_position(trace)
    events = trace if position is None else trace[: position + 1]
    before, after = moment(segments, trace, 0), moment(segments, trace, len(events))
    capacity = None if position is None else _capacity(trace[position], after)
    conf = recorded_conf(snapshot, gpu)
    run = rerun(events, before, conf, capacity, faithfully=True)
    return Recorded(
        gpu=gpu,
        events=events,
        before=before,
        after=after,
        capacity_bytes=capacity,
        reproduction=_reproduction(conf, events, before, after, run),
    )


def replayed(
    snapshot: Snapshot,
    alloc_conf: str,
    gpu: int | None = None,
    *,
    recorded: Recorded | None = None,
) -> Outcome:
    """A recording under other settings, such as ``expandable_segments:True``.

    ``recorded``: what `reproduced` gave, where several settings are tried. Raises `InputError`
    where nothing was recorded or torch has no such setting.
    """
    config = parse_alloc_conf(alloc_conf)
    recorded = recorded or reproduced(snapshot, gpu)
    run = rerun(recorded.events, recorded.before, alloc_conf, recorded.capacity_bytes)
    failure = recorded.events[-1] if recorded.capacity_bytes is not None else None
    return Outcome(
        gpu=recorded.gpu,
        alloc_conf=alloc_conf,
        served=None if failure is None else run.failed_at is None,
        fails_earlier=run.failed_at is not None and run.failed_at < len(recorded.events) - 1,
        requested_bytes=0 if failure is None else failure.num_bytes,
        live_bytes=recorded.after.live_bytes,
        capacity_bytes=recorded.capacity_bytes,
        reserved_bytes=run.reserved_bytes,
        peak_reserved_bytes=run.peak_reserved_bytes,
        recorded_bytes=recorded.after.reserved_bytes,
        recorded_peak_bytes=recorded.reproduction.recorded_peak_bytes,
        reproduction=recorded.reproduction,
        notes=tuple(_notes(recorded, run, config.ignored)),
    )


SETTINGS: Final = (
    "expandable_segments:True",
    "max_split_size_mb:128",
    "max_split_size_mb:512",
    "roundup_power2_divisions:4",
)
"""Settings that people try, and values that torch's documentation and error messages lead to."""


def outcomes(
    snapshot: Snapshot, gpu: int | None = None, settings: Sequence[str] = SETTINGS
) -> tuple[Outcome, ...]:
    """A recording under each of several settings, but for those that it has already.

    Raises `InputError` as `replayed` does.
    """
    recorded = reproduced(snapshot, gpu)
    had = recorded.reproduction.alloc_conf.replace(" ", "").split(",")
    tried = [conf for conf in settings if conf not in had]
    return tuple(replayed(snapshot, conf, recorded=recorded) for conf in tried)


def _chosen(snapshot: Snapshot) -> int:
    traces = list(enumerate(snapshot.traces))
    failed = [gpu for gpu, trace in traces if failure_position(trace) is not None]
    busiest = max(traces, key=lambda item: len(item[1]), default=(0, ()))[0]
    return failed[0] if failed else busiest


def _capacity(failure: Event, then: Moment) -> int:
    """What PyTorch could reserve when a request failed.

    Where the device had enough, a cap on the process refused it: the cap lies between what was
    reserved and what it would have been, and the lower is taken.
    """
    reserved = then.reserved_bytes
    capped = failure.free_bytes >= segment_bytes(failure.num_bytes)
    return reserved if capped else reserved + failure.free_bytes


def _reproduction(
    conf: str, events: Sequence[Event], before: Moment, after: Moment, run: Rerun
) -> Reproduction:
    recorded = list(_reserved(events, before.reserved_bytes))
    unlike = [abs(ours - theirs) for ours, theirs in zip(run.reserved, recorded, strict=False)]
    fails = events[-1].action == "oom"
    return Reproduction(
        alloc_conf=conf,
        num_allocations=len(recorded),
        num_unlike=sum(difference > 0 for difference in unlike),
        largest_difference_bytes=max(unlike, default=0),
        last_difference_bytes=run.reserved_bytes - after.reserved_bytes,
        recorded_peak_bytes=max(recorded, default=before.reserved_bytes),
        fails_alike=run.failed_at == len(events) - 1 if fails else None,
    )


def _reserved(events: Sequence[Event], reserved: int) -> Iterator[int]:
    """What was reserved after every allocation."""
    for action, _, num_bytes, *_ in events:
        if action == "alloc":
            if num_bytes:
                yield reserved
        elif action in ("segment_alloc", "segment_map"):
            reserved += num_bytes
        elif action in ("segment_free", "segment_unmap"):
            reserved -= num_bytes


def _notes(recorded: Recorded, run: Rerun, ignored: Sequence[str]) -> Iterator[str]:
    there = recorded.before.live_bytes
    if recorded.capacity_bytes is not None and run.failed_at is None:
        yield "what would have followed that request is not recorded, and may need more"
    if run.repacked and there:
        yield (
            f"{format_bytes(there)} were in use before the recording began: placed without gaps, "
            "so what is reserved may be more"
        )
    elif there or recorded.before.reserved_bytes:
        yield (
            f"{format_bytes(recorded.before.reserved_bytes)} were reserved before the recording "
            "began: left as they were"
        )
    if any(
        any(stretch.pool) for stretch in (*recorded.before.stretches, *recorded.after.stretches)
    ):
        yield "pools of CUDA graphs are replayed as if they gave memory back like others"
    if run.num_unknown_frees:
        yield f"{run.num_unknown_frees:,} frees of what is not in the recording were passed over"
    for setting in ignored:
        yield f"{setting} changes nothing here"
