"""What a model takes on a GPU, and whether it fits."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser
from willfit.cli.pictures import Traced, add_html_option, add_picture_option, checked
from willfit.errors import InputError, MissingLibraryError, UnsupportedError
from willfit.results import Estimate

if TYPE_CHECKING:
    from willfit.cli.build import Request
    from willfit.estimator.by_trace import Listener

DONE: Final = 0
DOES_NOT_FIT: Final = 3
NO_TRUSTWORTHY_NUMBER: Final = 4


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit estimate``."""
    add_scenario_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--trace",
        action="store_true",
        default=None,
        help="run the real code on fake tensors: seconds, no GPU, no weights (willfit[trace])",
    )
    group.add_argument(
        "--no-cache",
        action="store_true",
        default=None,
        help="with --trace: run again what was traced before",
    )
    group.add_argument(
        "--timeline",
        metavar="FILE",
        help="with --trace: memory over the run, as .html, .svg or .png",
    )
    group.add_argument(
        "--snapshot",
        metavar="FILE",
        help="with --trace: a snapshot that PyTorch's memory visualiser opens (.pickle)",
    )
    add_html_option(group, "the report")
    add_picture_option(group)
    group.add_argument(
        "--json", action="store_true", default=None, help="print the contract's JSON"
    )
    group.add_argument(
        "--check", action="store_true", default=None, help="exit with 3 where it does not fit"
    )
    group.add_argument(
        "--strict", action="store_true", default=None, help="with --check: tight is not enough"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the estimate; returns the exit code of the contract."""
    if arguments.check and not (arguments.gpu or arguments.live):
        raise InputError("--check needs --gpu: name the GPU to check against, such as --gpu T4")
    if arguments.strict and not arguments.check:
        raise InputError("--strict belongs to --check: add --check")
    checked(arguments)
    kept = Traced(arguments=arguments)
    estimate, workload_given = compute(arguments, kept.listener)
    if arguments.json:
        import json

        from willfit.report.contract import estimate_json

        sys.stdout.write(json.dumps(estimate_json(estimate), indent=2) + "\n")
    else:
        from willfit.report.terminal import render
        from willfit.report.text import Style

        style = Style(color=sys.stdout.isatty())
        sys.stdout.write(render(estimate, style, breakdown=workload_given))
    kept.write(estimate)
    return exit_code(estimate, check=bool(arguments.check), strict=bool(arguments.strict))


def compute(
    arguments: argparse.Namespace, listener: Listener | None = None
) -> tuple[Estimate, bool]:
    """The estimate of parsed arguments, and whether its breakdown was asked for."""
    from willfit.cli.build import build_request

    request = build_request(arguments)
    shown = request.workload_given or request.scenario.machine is not None
    if not arguments.trace:
        return estimated(request), shown
    if listener is not None or arguments.no_cache:
        return traced(request, listener), shown
    return traced_once(request), shown


def traced_once(request: Request) -> Estimate:
    """By trace, from disk where the same was traced before."""
    from willfit.cli.kept import keep, key_of, recall

    key = key_of(request)
    kept = recall(key, request)
    if kept is not None:
        print("willfit: traced before (--no-cache traces again)", file=sys.stderr)
        return kept
    result = traced(request)
    if result.level == "trace":
        keep(key, result)
    return result


def traced(request: Request, listener: Listener | None = None) -> Estimate:
    """By trace; by formula, and said to be unsupported, where the code cannot be run."""
    try:
        return estimated(request, trace=True, listener=listener)
    except MissingLibraryError:
        raise
    except UnsupportedError as error:
        try:
            return estimated(request, reason=str(error))
        except UnsupportedError:
            raise error from None


def estimated(
    request: Request,
    *,
    trace: bool = False,
    listener: Listener | None = None,
    reason: str = "",
    search_limits: bool = True,
) -> Estimate:
    """The estimate with what the request says of it; ``reason`` makes it untrustworthy."""
    from willfit.estimator import estimate

    result = estimate(
        request.scenario,
        dtypes=request.dtypes,
        assumptions=request.assumptions,
        ignored_settings=request.ignored_settings,
        unsupported=[*request.unsupported, *([reason] if reason else [])],
        search_limits=search_limits,
        trace=trace,
        listener=listener,
    )
    return replace(result, notes={**result.notes, **request.notes})


def exit_code(estimate: Estimate, *, check: bool, strict: bool) -> int:
    """0 done (checked: fits or tight), 3 does not fit when checked, 4 no trustworthy number."""
    if estimate.unsupported:
        return NO_TRUSTWORTHY_NUMBER
    passing = ("fits",) if strict else ("fits", "tight")
    if check and estimate.verdict not in passing:
        return DOES_NOT_FIT
    return DONE
