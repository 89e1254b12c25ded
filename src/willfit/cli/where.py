"""The same job at many places: Kaggle, Colab, consumer and rented cards; hours and cost."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser, positive_float, positive_int, with_dashes
from willfit.cli.plan import duration_seconds
from willfit.errors import InputError

if TYPE_CHECKING:
    from willfit.changes import Change
    from willfit.cli.build import Request
    from willfit.devices.places import Place
    from willfit.plan.result import Job
    from willfit.plan.stay import Handover, Stay, Where
    from willfit.plan.where import Asking, Bettering
    from willfit.scenario import Scenario

DONE: Final = 0
FITS_NOWHERE: Final = 3
NO_TRUSTWORTHY_NUMBER: Final = 4

_INHERITED: Final = (
    "model", "revision", "library_name", "auto_class", "num_labels", "trust_remote_code", "stack",
)  # fmt: skip
"""Settings that the job after the first has of it, where it names none of its own."""


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit where``."""
    add_scenario_options(parser)
    _job_options(parser)
    group = parser.add_argument_group("places")
    group.add_argument("--then", metavar='"FLAGS"', help="the job after it, with its own settings")
    group.add_argument("--infer-on", metavar="NAME", help="place of the job after it")
    group.add_argument(
        "--no-changes",
        action="store_true",
        default=None,
        help="look for no change that makes it fit",
    )
    group.add_argument(
        "--check", action="store_true", default=None, help="exit with 3 where it fits nowhere"
    )
    group.add_argument("--json", action="store_true", default=None, help="print JSON")


def _job_options(parser: Parser) -> None:
    group = parser.add_argument_group("job")
    group.add_argument("--samples", type=positive_int, metavar="N", help="rows of the data")
    group.add_argument("--epochs", type=positive_float, metavar="X")
    group.add_argument("--time-limit", type=duration_seconds, metavar="T", help="9h, 40m")
    group.add_argument(
        "--price-per-hour", nargs="+", metavar="X", help="2.5 for all, or h100=2.5 a100-80gb=1.8"
    )
    group.add_argument("--place", nargs="+", metavar="NAME", help="only these, such as kaggle l4")


def run(arguments: argparse.Namespace) -> int:
    """Print the places; 0, or with --check 3 where it fits at none; 4 without any number."""
    where = compute(arguments)
    if arguments.json:
        import json

        from willfit.report.where import where_json

        sys.stdout.write(json.dumps(where_json(where), indent=2) + "\n")
    else:
        from willfit.report.text import Style
        from willfit.report.where import render_where

        sys.stdout.write(render_where(where, Style(color=sys.stdout.isatty())))
    asked = [stay for stay in where.stays if stay.status != "cannot_run"]
    if asked and all(stay.status == "unknown" for stay in asked):
        return NO_TRUSTWORTHY_NUMBER
    return FITS_NOWHERE if arguments.check and not where.fits else DONE


def compute(arguments: argparse.Namespace) -> Where:
    """The job over the places of parsed arguments."""
    from willfit.cli.build import build_request
    from willfit.plan.stay import Where

    request = build_request(arguments)
    asking = _asking(arguments, request)
    then = _then(arguments, request)
    stays = _stays(request.scenario, _places(arguments, request.scenario), asking)
    return Where(
        scenario=request.scenario,
        job=asking.job,
        stays=stays,
        then=then,
        assumptions=tuple(
            dict.fromkeys(
                [
                    *(f"{topic}: {text}" for topic, text in request.notes.items()),
                    *_assumed(stays, request),
                ]
            )
        ),
        ignored_settings=request.ignored_settings,
    )


def _assumed(stays: Sequence[Stay], request: Request) -> tuple[str, ...]:
    """Of the first place with a number: what its memory and its time were computed with."""
    for stay in stays:
        if stay.estimate is not None:
            return (*stay.estimate.assumptions, *stay.assumptions)
    return request.assumptions


def _stays(scenario: Scenario, places: Sequence[Place], asking: Asking) -> tuple[Stay, ...]:
    """One place after the other, said where it takes more than a second."""
    from willfit.plan.where import stay

    began, made = time.monotonic(), []
    for number, place in enumerate(places, 1):
        made.append(stay(scenario, place, asking))
        if time.monotonic() - began > 1 and number < len(places):
            began = time.monotonic()
            print(f"willfit: {number} of {len(places)} places", file=sys.stderr)
    asked = [stay for stay in made if stay.status != "cannot_run"]
    if asked and all(stay.status == "refused" for stay in asked):
        raise InputError(asked[0].reason)  # the settings are wrong, not the places
    return tuple(made)


def _asking(arguments: argparse.Namespace, request: Request) -> Asking:
    from willfit.estimator import estimate
    from willfit.plan.where import Asking
    from willfit.results import Estimate

    def estimating(scenario: Scenario) -> Estimate:
        return estimate(
            scenario,
            dtypes=request.dtypes,
            assumptions=request.assumptions,
            ignored_settings=request.ignored_settings,
            unsupported=request.unsupported,
            search_limits=False,
        )

    job, prices = _job(arguments, request)
    return Asking(
        job=job,
        prices=prices,
        estimating=estimating,
        bettering=None if arguments.no_changes else _bettering(),
    )


def _bettering() -> Bettering:
    """The cheapest change of a scenario; places of the same machine are searched once."""
    from willfit.errors import WillfitError
    from willfit.plan.judge import Judge
    from willfit.plan.quick import quickest_search
    from willfit.plan.where import Best, plain_estimate

    judge = Judge()
    known: dict[tuple[Any, ...], Best | None] = {}

    def better(scenario: Scenario, job: Job) -> Best | None:
        machine = scenario.machine
        assert machine is not None
        cards = tuple((gpu.name, gpu.capacity_bytes) for gpu in machine.gpus)
        key = (cards, machine.in_use_bytes, machine.ram_bytes, machine.disk_bytes, job)
        if key not in known:
            found = quickest_search(scenario, job, judge)
            known[key] = None
            if found is not None:
                with contextlib.suppress(WillfitError):
                    titles = tuple(_title(change) for change in found.changes)
                    made = plain_estimate(found.scenario)
                    known[key] = Best(scenario=found.scenario, estimate=made, changes=titles)
        return known[key]

    return better


def _title(change: Change) -> str:
    from willfit.changes import Quality

    felt = change.quality == Quality.REAL
    return change.title + (" (this is felt: check the result)" if felt else "")


def _job(arguments: argparse.Namespace, request: Request) -> tuple[Job, Mapping[str, float]]:
    """The job, its samples those of the data where none are given, and prices by place."""
    from willfit.plan.result import Job

    samples = arguments.samples
    if samples is None and request.data is not None:
        samples = request.data.lengths.num_samples
    for name in ("epochs", "time_limit", "price_per_hour"):
        if samples is None and getattr(arguments, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} needs --samples: say how many rows there are"
            )
    every, prices = _prices(arguments.price_per_hour or ())
    return Job(
        samples=samples,
        epochs=1.0 if arguments.epochs is None else arguments.epochs,
        time_limit_seconds=arguments.time_limit,
        price_per_hour=every,
    ), prices


def _prices(words: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """(price everywhere, prices by place) of ``2.5`` and ``h100=2.5``."""
    from willfit.devices.places import find_places

    every: float | None = None
    prices: dict[str, float] = {}
    for word in words:
        name, equals, amount = word.rpartition("=")
        try:
            price = positive_float(amount)
        except argparse.ArgumentTypeError:
            raise InputError(
                f"cannot read --price-per-hour {word[:40]!r}: expected a number, or NAME=NUMBER "
                "with the name of a place, such as h100=2.5"
            ) from None
        if equals:
            prices |= {place.name: price for place in find_places([name])}
        else:
            every = price
    return every, prices


def _places(arguments: argparse.Namespace, scenario: Scenario) -> tuple[Place, ...]:
    """Those named, or all; the machine of ``--gpu`` before them."""
    from willfit.devices.places import all_places, find_places

    given = _given(arguments, scenario)
    if arguments.place:
        return (*given, *find_places(arguments.place))
    return (*given, *all_places())


def _given(arguments: argparse.Namespace, scenario: Scenario) -> tuple[Place, ...]:
    """The machine that the user described, as a place."""
    from willfit.devices.places import Place
    from willfit.plan.where import GIVEN

    if scenario.machine is None:
        return ()
    title = "this machine" if arguments.live else str(arguments.gpu)[:20]
    return (
        Place(
            name=GIVEN,
            title=title,
            provider="given",
            kind="own",
            gpus=scenario.machine.gpus,
            sources={"gpus": "given"},
        ),
    )


def _then(arguments: argparse.Namespace, request: Request) -> Handover | None:
    """The job after the first, where one is asked for."""
    if arguments.then is None and arguments.infer_on is None:
        return None
    from willfit.cli.build import build_request
    from willfit.plan.where import handover

    training = request.scenario.workload.training
    if training is None:
        raise InputError("--then is the job after a training: add --train lora, qlora or full")
    later = _later(arguments)
    second = build_request(later)
    if second.scenario.workload.inference is None:
        raise InputError("--then is an inference: leave out --train and --task in it")
    scenario = second.scenario
    loading, first = scenario.workload.loading, request.scenario.workload.loading
    if later.quantize is None and later.dtype is None:
        loading = replace(loading, quantization=first.quantization, dtype=first.dtype)
        scenario = replace(scenario, workload=replace(scenario.workload, loading=loading))
    places = _places(later, scenario)
    return handover(request.scenario, scenario, places[0], _asking(later, second))


def _later(arguments: argparse.Namespace) -> argparse.Namespace:
    """Settings of the second job: its own, and what it has of the first."""
    parser = Parser(prog="willfit where --then", add_help=False)
    configure(parser)
    try:
        words = with_dashes(shlex.split(arguments.then or ""))
    except ValueError as error:
        raise InputError(f"cannot read --then: {str(error).lower()}") from None
    later = parser.parse_args(words)
    if later.then is not None or later.infer_on is not None:
        raise InputError("--then holds one job: leave out --then and --infer-on in it")
    for name in _INHERITED:
        if getattr(later, name) is None:
            setattr(later, name, getattr(arguments, name))
    if arguments.infer_on is not None:
        later.place = [arguments.infer_on]
        later.gpu = None
    if later.place is None and later.gpu is None:
        raise InputError("the job after it needs a place: add --infer-on kaggle-submission, say")
    if later.context is None and arguments.max_length is not None:
        later.context = arguments.max_length
    later.no_changes = arguments.no_changes
    return later
