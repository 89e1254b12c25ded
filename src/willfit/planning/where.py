"""The same job at many places: whether it fits, how long it takes and what it costs there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from willfit.devices.places import Place
from willfit.errors import InputError, UnsupportedError, WillfitError
from willfit.estimator import estimate
from willfit.estimator.timing import job_seconds, timing
from willfit.formulas.timing.span import Span
from willfit.planning.result import Job
from willfit.planning.sessions import HOUR, Sessions, sessions_of
from willfit.planning.stay import Handover, Stay
from willfit.planning.terms import cannot_run, terms, too_large, trained_bytes
from willfit.results import Estimate
from willfit.scenario import Machine, Scenario

GIVEN = "given"
"""Name of the place that is the user's own description of a machine."""

Estimating = Callable[[Scenario], Estimate]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The smallest change that fits."""

    scenario: Scenario
    estimate: Estimate
    changes: tuple[str, ...]


Bettering = Callable[[Scenario, Job], Best | None]
"""Finds the smallest change that makes a scenario fit; None where there is none."""


def plain_estimate(scenario: Scenario) -> Estimate:
    """The estimate by formula, no limits searched."""
    return estimate(scenario, search_limits=False)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked of every place."""

    job: Job = field(default_factory=Job)
    prices: Mapping[str, float] = field(default_factory=dict)
    """Price an hour by the place's name; it goes before the job's."""
    estimating: Estimating = plain_estimate
    bettering: Bettering | None = None
    """None where the job is to stay as it is."""


def stays(
    scenario: Scenario,
    places: Sequence[Place],
    asking: Asking,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Stay, ...]:
    """The job at each place, in the given order; ``progress`` is told how many are done.

    Raises `InputError` where the settings are refused wherever they could be tried.
    """
    found: dict[str, Stay] = {}
    for number, place in enumerate(sorted(places, key=_size, reverse=True), 1):
        found[place.name] = stay(scenario, place, asking)
        progress(number)
    tried = [stay for stay in found.values() if stay.status != "cannot_run"]
    if tried and all(stay.status == "refused" for stay in tried):
        raise InputError(tried[0].reason)
    return tuple(found[place.name] for place in places)


def _size(place: Place) -> tuple[int, int]:
    """Large machines first: what fits on none of them is not searched on smaller ones."""
    return len(place.gpus), min((gpu.capacity_bytes for gpu in place.gpus), default=0)


def stay(scenario: Scenario, place: Place, asking: Asking) -> Stay:
    """The job at one place: as asked, else with the smallest change, else why not."""
    reason = cannot_run(scenario, place)
    if reason is not None:
        return Stay(place=place, status="cannot_run", reason=reason)
    here = at(scenario, place)
    try:
        made = asking.estimating(here)
    except UnsupportedError as error:
        return Stay(place=place, status="unknown", reason=str(error))
    except WillfitError as error:
        return Stay(place=place, status="refused", reason=str(error))
    if made.unsupported:
        said = "; ".join(made.unsupported)
        return Stay(place=place, status="unknown", reason=said, estimate=made)
    reason = too_large(made)
    as_asked = (
        Stay(place=place, status="does_not_fit", reason=reason, estimate=made)
        if reason
        else _timed(Best(scenario=here, estimate=made, changes=()), place, asking)
    )
    if as_asked.passes or asking.bettering is None:
        return as_asked
    best = asking.bettering(here, _within_session(asking.job, place))
    better = _timed(best, place, asking) if best is not None and best.changes else as_asked
    return better if better.passes or as_asked.status == "does_not_fit" else as_asked


def _within_session(job: Job, place: Place) -> Job:
    """Where one session is all there is, it is a limit."""
    if place.resumable or place.session_hours is None or job.samples is None:
        return job
    limit = place.session_hours * HOUR
    return replace(job, time_limit_seconds=min(job.time_limit_seconds or limit, limit))


def at(scenario: Scenario, place: Place) -> Scenario:
    """The scenario on the place's machine; RAM and disk as the user gave them, else the place's."""
    asked = scenario.machine or Machine(gpus=place.gpus)
    machine = replace(
        asked,
        gpus=place.gpus,
        in_use_bytes=asked.in_use_bytes if asked.gpus == place.gpus else (),
        ram_bytes=asked.ram_bytes or place.ram_bytes,
        disk_bytes=asked.disk_bytes or place.disk_bytes,
        internet=place.internet,
    )
    return replace(scenario, machine=machine)


def _timed(best: Best, place: Place, asking: Asking) -> Stay:
    """A job that fits in memory, with its time, sessions and price."""
    time = _time(best.scenario, asking.job)
    trains = best.scenario.workload.training is not None
    limit = asking.job.time_limit_seconds
    spent = sessions_of(time.whole, place, limit, trains=trains) if time.whole else Sessions()
    hourly = _hourly(place, asking)
    return Stay(
        place=place,
        status="too_slow" if spent.late else "fits_changed" if best.changes else "fits",
        reason=spent.late,
        scenario=best.scenario,
        estimate=best.estimate,
        changes=best.changes,
        seconds=time.whole,
        samples_per_second=time.rate,
        sessions=spent.count,
        price=None if hourly is None or time.whole is None else hourly * time.whole.nominal / HOUR,
        notes=(*time.unknown, *spent.notes, *terms(best.estimate, place)),
        assumptions=time.assumptions,
    )


def _hourly(place: Place, asking: Asking) -> float | None:
    """The price by name, none where it is free, else the one for all that is paid by the hour."""
    if place.name in asking.prices:
        return asking.prices[place.name]
    by_the_hour = place.kind != "own" or place.name == GIVEN
    return 0.0 if place.free else asking.job.price_per_hour if by_the_hour else None


@dataclass(frozen=True, kw_only=True)
class _Time:
    rate: Span | None = None
    whole: Span | None = None
    unknown: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


def _time(scenario: Scenario, job: Job) -> _Time:
    """Samples a second and seconds of the job; what has no time says why."""
    try:
        timed = timing(scenario)
        whole = None
        if job.samples is not None:
            whole = job_seconds(timed, samples=job.samples, epochs=job.epochs)
    except WillfitError as error:
        return _Time(unknown=(f"no time: {error}",))
    return _Time(
        rate=timed.samples_per_second,
        whole=whole,
        unknown=timed.unsupported,
        assumptions=timed.assumptions,
    )


def handover(first: Scenario, second: Scenario, place: Place, asking: Asking) -> Handover:
    """What ``first`` trains, used at a place: the adapter goes along, and what else must match."""
    training, inference = first.workload.training, second.workload.inference
    notes: list[str] = []
    if training is not None and inference is not None:
        adapted = replace(second.workload, inference=replace(inference, lora=training.lora_config))
        second = replace(second, workload=adapted)
        mine, its = first.workload.loading.quantization, second.workload.loading.quantization
        if mine != its:
            trained, used = (q.scheme if q is not None else "16 bit" for q in (mine, its))
            notes.append(
                f"trained on weights in {trained} and used on weights in {used}: an adapter makes "
                "up for the errors of those that it saw"
            )
    return Handover(
        stay=stay(second, place, asking),
        job=asking.job,
        upload_bytes=trained_bytes(plain_estimate(replace(first, machine=None))),
        notes=tuple(notes),
    )
