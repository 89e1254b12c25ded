"""Several models or settings side by side, estimated or measured, and why they differ."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from willfit.cli.estimate import DOES_NOT_FIT, DONE, NO_TRUSTWORTHY_NUMBER, estimated, traced_once
from willfit.cli.files import check_place, write_drawing, write_text
from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser, positive_int
from willfit.cli.pictures import add_html_option, add_picture_option, checked, command_of
from willfit.cli.sides import Side, shared_words, side_parser, sides_of
from willfit.errors import InputError, UnsupportedError, WillfitError
from willfit.scenario.stack import TESTED

if TYPE_CHECKING:
    from willfit.comparing.result import Compared, Comparison
    from willfit.live.measurement import Measurement
    from willfit.scenario import Scenario

_OWN: Final = (
    "sides", "vary", "model", "measure", "repeat", "device", "json", "html", "picture", "check",
    "command_line",
)  # fmt: skip
"""Arguments that are no setting of a side."""


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit compare``."""
    parser.intermixed = True
    parser.add_argument(
        "sides",
        nargs="*",
        metavar="SIDE",
        help='a model, settings in quotes such as "llama-3-8b --quantize nf4", '
        "or a file saved from 'willfit estimate … --json'; a side's own settings win",
    )
    parser.add_argument(
        "--vary",
        action="append",
        metavar="NAME=V1,V2",
        help="a side for each value: quantize=int8,nf4,none; again for all combinations",
    )
    add_scenario_options(parser, model_flag=True)
    group = parser.add_argument_group("comparing")
    group.add_argument("--trace", action="store_true", default=None, help="by trace, not formula")
    group.add_argument(
        "--measure",
        action="store_true",
        help="run each for real too, in a fresh process, one after another",
    )
    group.add_argument("--repeat", type=positive_int, metavar="N", help="runs of each, in turn")
    group.add_argument("--device", choices=("cuda", "cpu"), help="where --measure runs")
    group.add_argument("--json", action="store_true", help="print JSON")
    add_html_option(group, "the comparison")
    add_picture_option(group)
    group.add_argument("--check", action="store_true", help="exit with 3 where a side does not fit")


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison; 0, with --check 3 where a side does not fit, 4 without a number."""
    for name in ("repeat", "device"):
        if getattr(arguments, name) is not None and not arguments.measure:
            raise InputError(f"--{name} belongs to --measure: add --measure")
    checked(arguments)
    for name in (arguments.html, arguments.picture):
        check_place(name)
    comparison = compute(arguments)
    _write_files(comparison, arguments)
    if arguments.json:
        import json

        from willfit.report.comparison import comparison_json

        sys.stdout.write(json.dumps(comparison_json(comparison), indent=2) + "\n")
    else:
        from willfit.report.comparison import render_comparison
        from willfit.report.text import Style

        sys.stdout.write(render_comparison(comparison, Style(color=sys.stdout.isatty())))
    return exit_code(comparison, check=arguments.check)


def exit_code(comparison: Comparison, *, check: bool) -> int:
    """What does not fit comes before what has no number."""
    entries = comparison.entries
    if check and any(_fails(entry) for entry in entries):
        return DOES_NOT_FIT
    trusted = [entry.trusted for entry in entries]
    return DONE if (all(trusted) if check else any(trusted)) else NO_TRUSTWORTHY_NUMBER


def _fails(entry: Compared) -> bool:
    run = entry.measurement
    ran_out = run is not None and run.failure_kind == "out_of_memory"
    return ran_out or entry.verdict == "does_not_fit"


def compute(arguments: argparse.Namespace) -> Comparison:
    """The comparison of parsed arguments."""
    from willfit.comparing import compare

    shared = {k: v for k, v in vars(arguments).items() if k not in _OWN and v is not None}
    sides = sides_of(arguments, shared)
    entries = [_entry(side, len(sides), number) for number, side in enumerate(sides, 1)]
    if arguments.check and any(e.estimate and e.verdict is None for e in entries):
        raise InputError("--check needs --gpu: name the GPU to check against, such as --gpu T4")
    if arguments.measure:
        entries = _measured(entries, arguments)
    told = {name: value for name, value in shared.items() if name != "trace"}  # the level says it
    return compare(entries, shared=shared_words(side_parser()._actions, told))


def _entry(side: Side, count: int, number: int) -> Compared:
    """A side with its estimate, or why it has none; raises `InputError` naming the side."""
    from willfit.comparing.result import Compared

    if side.path is not None:
        return _from_file(side.label, side.path)
    assert side.arguments is not None
    if side.arguments.trace:
        print(f"willfit: tracing {number} of {count}: {side.label}", file=sys.stderr)
    try:
        return Compared(label=side.label, estimate=_estimate(side.arguments))
    except UnsupportedError as error:
        return Compared(label=side.label, reason=str(error))
    except InputError as error:
        raise type(error)(f"in {side.label[:80]!r}: {error}") from None


def _estimate(arguments: argparse.Namespace) -> Any:
    from willfit.cli.build import build_request

    request = build_request(arguments)
    return traced_once(request) if arguments.trace else estimated(request)


def _from_file(label: str, path: Path) -> Compared:
    from willfit.cli.saved import read_saved
    from willfit.comparing.result import Compared
    from willfit.comparing.saved import compared_from, estimate_from

    content = read_saved(path, ("willfit.estimate/1", "willfit.measurement/1"))
    if content["schema"] == "willfit.estimate/1":
        return Compared(label=label, estimate=estimate_from(content), saved=content)
    return compared_from(content, label)


def _measured(entries: Sequence[Compared], arguments: argparse.Namespace) -> list[Compared]:
    """Each side run for real as well; what was saved stays as it is."""
    from willfit.comparing.measured import run_sides
    from willfit.live.measure import measure
    from willfit.live.measurement import Measurement
    from willfit.runner.gpus import ScriptedProbe

    def measuring(scenario: Scenario) -> Measurement:
        try:
            return measure(scenario, device=arguments.device)
        except WillfitError as error:
            return Measurement(device="", failure=str(error), failure_kind="refused")

    scenarios = [_to_run(entry) for entry in entries]
    if any(one is not None and dict(one.stack.versions) != TESTED for one in scenarios):
        raise InputError("--measure runs the libraries that are installed: leave --stack out")
    if not any(scenarios):
        raise InputError("nothing to measure: every side is a file or has no estimate")
    runs = run_sides(
        scenarios,
        measuring,
        repeat=arguments.repeat or 1,
        probe=ScriptedProbe(lambda _: ()) if arguments.device == "cpu" else None,
        tell=lambda text: print(f"willfit: {text}", file=sys.stderr),
    )
    return [_with_runs(entry, found) for entry, found in zip(entries, runs, strict=True)]


def _with_runs(entry: Compared, runs: tuple[Measurement, ...]) -> Compared:
    """A side with its runs, the median one beside the estimate."""
    from willfit.comparing.measured import median_run, peaks_beside

    run = median_run(runs)
    if run is None or entry.estimate is None:
        return entry
    lines = peaks_beside(run, entry.estimate.scenario, entry.estimate.level)
    return replace(entry, repeats=runs, lines=lines, reason=run.failure or None)


def _to_run(entry: Compared) -> Scenario | None:
    if entry.saved is not None or entry.estimate is None:
        return None
    return entry.estimate.scenario


def _write_files(comparison: Comparison, arguments: argparse.Namespace) -> None:
    if arguments.picture is not None:
        from willfit.report.peak import peak_drawing, sides_of

        made = [(e.estimate, e.label) for e in comparison.entries if e.estimate is not None]
        bars = [bar for one, name in made if one.refused is None for bar in sides_of(one, name)]
        title = f"The peaks, each with {comparison.shared}" if comparison.shared else "The peaks"
        write_drawing(arguments.picture, peak_drawing(bars, title))
    if arguments.html is not None:
        from willfit.report.html import comparison_html

        page = comparison_html(comparison, command=command_of(arguments))
        write_text(arguments.html, page)
