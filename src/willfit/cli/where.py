"""The same job at many places: Kaggle, Colab, consumer and rented cards; hours and cost."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from willfit.cli.estimate import DOES_NOT_FIT, DONE, NO_TRUSTWORTHY_NUMBER, estimated
from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser, positive_float
from willfit.cli.plan import add_job_options, job_of
from willfit.errors import InputError

if TYPE_CHECKING:
    from willfit.cli.build import Request
    from willfit.devices.places import Place
    from willfit.planning.stay import Stay, Where
    from willfit.planning.where import Asking
    from willfit.scenario import Scenario


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit where``."""
    add_scenario_options(parser)
    add_job_options(parser).add_argument(
        "--price-per-hour", nargs="+", metavar="X", help="2.5 for all, or h100=2.5 a100-80gb=1.8"
    )
    group = parser.add_argument_group("places")
    group.add_argument("--place", nargs="+", metavar="NAME", help="only these, such as kaggle l4")
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
    return DOES_NOT_FIT if arguments.check and not where.fits else DONE


def compute(arguments: argparse.Namespace) -> Where:
    """The job over the places of parsed arguments."""
    from willfit.cli.build import build_request
    from willfit.cli.handover import handover_of
    from willfit.planning.stay import Where
    from willfit.planning.where import stays

    request = build_request(arguments)
    asking = asking_of(arguments, request)
    then = handover_of(arguments, request)
    places = places_of(arguments, request.scenario)
    found = stays(request.scenario, places, asking, _progress(len(places)))
    return Where(
        scenario=request.scenario,
        job=asking.job,
        stays=found,
        then=then,
        notes=request.notes,
        assumptions=_assumed(found, request),
        ignored_settings=request.ignored_settings,
    )


def _assumed(stays: Sequence[Stay], request: Request) -> tuple[str, ...]:
    """Of the first place with a number: what its memory and its time were computed with."""
    said = list(request.assumptions)
    for stay in stays:
        if stay.estimate is not None:
            said += [*stay.estimate.assumptions, *stay.assumptions]
            break
    return tuple(dict.fromkeys(said))


def _progress(count: int) -> Callable[[int], None]:
    """Says on stderr how far it is, where that takes more than a second."""
    told = time.monotonic()

    def say(number: int) -> None:
        nonlocal told
        if time.monotonic() - told > 1 and number < count:
            told = time.monotonic()
            print(f"willfit: {number} of {count} places", file=sys.stderr)

    return say


def asking_of(arguments: argparse.Namespace, request: Request) -> Asking:
    """The job, the prices and how estimates are made."""
    from willfit.planning.better import Better
    from willfit.planning.where import Asking
    from willfit.results import Estimate

    def estimating(scenario: Scenario) -> Estimate:
        return estimated(replace(request, scenario=scenario), search_limits=False)

    every, prices = _prices(arguments.price_per_hour or ())
    return Asking(
        job=job_of(arguments, request, every),
        prices=prices,
        estimating=estimating,
        bettering=None if arguments.no_changes else Better(),
    )


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


def places_of(arguments: argparse.Namespace, scenario: Scenario) -> tuple[Place, ...]:
    """Those named, or all; the machine of ``--gpu`` before them."""
    from willfit.devices.places import all_places, find_places

    given = _given(arguments, scenario)
    if arguments.place:
        return (*given, *find_places(arguments.place))
    return (*given, *all_places())


def _given(arguments: argparse.Namespace, scenario: Scenario) -> tuple[Place, ...]:
    """The machine that the user described, as a place."""
    from willfit.devices.places import Place
    from willfit.planning.where import GIVEN

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
