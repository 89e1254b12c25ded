"""The smallest change that makes it fit, or the fastest way to run it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from willfit.cli.estimate import DOES_NOT_FIT, DONE, NO_TRUSTWORTHY_NUMBER
from willfit.cli.files import write_drawing, write_text
from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser, positive_float, positive_int
from willfit.cli.pictures import add_html_option, add_picture_option, checked, command_of
from willfit.errors import InputError, WillfitError

if TYPE_CHECKING:
    from willfit.cli.build import Request
    from willfit.planning.result import Job, Planning
    from willfit.scenario import Scenario

_UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit plan``."""
    add_scenario_options(parser)
    add_job_options(parser).add_argument(
        "--price-per-hour", type=positive_float, metavar="X", help="of the whole machine"
    )
    group = parser.add_argument_group("plan")
    group.add_argument("--goal", choices=("smallest-change", "fastest"), default="smallest-change")
    group.add_argument("--top", type=positive_int, default=5, metavar="K", help="plans to show")
    group.add_argument(
        "--emit", metavar="TARGET", help="code of the plans: transformers, peft, trl, vllm, …"
    )
    group.add_argument(
        "--trace", action="store_true", default=None, help="run the real code of what is shown"
    )
    group.add_argument(
        "--no-cache", action="store_true", default=None, help="with --trace: trace again"
    )
    add_html_option(group, "the report")
    add_picture_option(group)
    group.add_argument(
        "--json", action="store_true", default=None, help="print the contract's JSON"
    )


def add_job_options(parser: Parser) -> argparse._ArgumentGroup:
    """Add how much work there is and how long it may take; the price is each command's own."""
    group = parser.add_argument_group("job")
    group.add_argument("--samples", type=positive_int, metavar="N", help="rows of the data")
    group.add_argument("--epochs", type=positive_float, metavar="X")
    group.add_argument("--time-limit", type=duration_seconds, metavar="T", help="9h, 40m")
    return group


def duration_seconds(text: str) -> float:
    """Seconds of ``9h``, ``40m``, ``1.5d``."""
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(s|m|min|h|d)\s*", text.lower())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"expected a time such as 9h or 40m, got {text[:40]!r}")
    return float(match[1]) * _UNITS[match[2]]


def job_of(arguments: argparse.Namespace, request: Request, price: float | None) -> Job:
    """The job of parsed arguments, its samples the data's where none are given.

    Raises `InputError` on settings that lack their other half.
    """
    from willfit.planning.result import Job

    data = request.data
    samples = arguments.samples or (data.lengths.num_samples if data is not None else None)
    if samples is None:
        for name in ("epochs", "time_limit", "price_per_hour"):
            if getattr(arguments, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} needs --samples: say how many rows there are"
                )
    return Job(
        samples=samples,
        epochs=1.0 if arguments.epochs is None else arguments.epochs,
        time_limit_seconds=arguments.time_limit,
        price_per_hour=price,
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plans; 0 where one fits, 3 where none does, 4 without a trustworthy number."""
    if arguments.emit is not None:
        from willfit.emitting import writer

        writer(arguments.emit)
    checked(arguments)
    planning = compute(arguments)
    codes = [_code(plan.scenario, arguments.emit) for plan in planning.plans]
    if arguments.json:
        import json

        from willfit.report.plan import plan_json

        sys.stdout.write(json.dumps(plan_json(planning, codes), indent=2) + "\n")
    else:
        from willfit.report.plan import render_plan
        from willfit.report.text import Style

        sys.stdout.write(render_plan(planning, Style(color=sys.stdout.isatty())))
        if codes and codes[0] is not None:
            sys.stdout.write(f"\n# code of plan 1, {arguments.emit}\n{codes[0]['text']}")
    _write(arguments, planning, codes)
    return exit_code(planning)


def _write(
    arguments: argparse.Namespace, planning: Planning, codes: Sequence[dict[str, str] | None]
) -> None:
    """The files that were asked for; raises `InputError` where one cannot be written."""
    if arguments.html is not None:
        from willfit.report.html.plan import plan_html

        text = plan_html(planning, codes, command=command_of(arguments))
        write_text(arguments.html, text)
    if arguments.picture is not None:
        from willfit.report.html.plan import plan_sides, plan_title
        from willfit.report.peak import peak_drawing

        drawing = peak_drawing(plan_sides(planning), plan_title(planning))
        write_drawing(arguments.picture, drawing)


def compute(arguments: argparse.Namespace) -> Planning:
    """The planning of parsed arguments."""
    from dataclasses import replace

    from willfit.cli.build import build_request
    from willfit.cli.estimate import estimated, traced, traced_once
    from willfit.planning import plan
    from willfit.results import Estimate

    if not arguments.gpu and not arguments.live:
        raise InputError("a plan is made for a GPU: name it with --gpu, such as --gpu T4")
    request = build_request(arguments)
    job = job_of(arguments, request, arguments.price_per_hour)

    def estimating(scenario: Scenario) -> Estimate:
        asked = replace(request, scenario=scenario)
        if not arguments.trace:
            return estimated(asked)
        return traced(asked) if arguments.no_cache else traced_once(asked)

    return plan(
        request.scenario,
        goal=arguments.goal,
        job=job,
        top=arguments.top,
        trace=bool(arguments.trace),
        estimating=estimating,
    )


def _code(scenario: Scenario, target: str | None) -> dict[str, str] | None:
    if target is None:
        return None
    from willfit.emitting import emit

    try:
        text = emit(scenario, target)
    except WillfitError as refusal:
        text = f"# {target}: {refusal}\n"
    return {"target": target, "text": text}


def exit_code(planning: Planning) -> int:
    """0 a plan fits in memory and time, 3 none does, 4 no trustworthy number."""
    if planning.baseline.unsupported:
        return NO_TRUSTWORTHY_NUMBER
    return DONE if planning.fits else DOES_NOT_FIT
