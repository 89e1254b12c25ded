"""The real thing in a fresh process, beside the estimate."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from willfit.cli.estimate import DOES_NOT_FIT, DONE
from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser, positive_int
from willfit.cli.plan import duration_seconds
from willfit.errors import InputError

if TYPE_CHECKING:
    from willfit.live.beside import Estimated
    from willfit.live.measurement import Measurement
    from willfit.scenario import Scenario

FAILED: Final = 5
OWN: Final = (
    "device", "checkpoint", "layers", "trace", "json", "record", "time_limit", "suite", "out",
    "bundle", "only", "budget", "wheels", "python",
)  # fmt: skip
"""Settings of this command alone; the others are the scenario's."""


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit measure``."""
    add_scenario_options(parser)
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: the GPU, if there is one"
    )
    group.add_argument(
        "--checkpoint", metavar="DIR", help="real weights (default: random ones, no download)"
    )
    group.add_argument(
        "--layers", type=positive_int, metavar="N", help="measure the model with N layers only"
    )
    group.add_argument(
        "--trace", action="store_true", default=None, help="the trace beside it, too"
    )
    group.add_argument("--json", action="store_true", default=None, help="print JSON")
    group.add_argument(
        "--record", metavar="FILE", help="append a row of the ledger to a .jsonl file"
    )
    group.add_argument(
        "--time-limit", type=duration_seconds, metavar="T", help="of a run: 90s, 10m (default 10m)"
    )
    suite = parser.add_argument_group("a suite of measurements")
    suite.add_argument("--suite", metavar="NAME", help="h200, t4 or cpu: a grid of real runs")
    suite.add_argument("--out", metavar="FILE", help="its rows; the same command goes on with it")
    suite.add_argument("--only", nargs="+", metavar="TEXT", help="cases whose name contains it")
    suite.add_argument("--budget", type=duration_seconds, metavar="T", help="time for all of them")
    suite.add_argument(
        "--bundle", metavar="DIR|FILE.zip", help="make what a machine without network needs for it"
    )
    suite.add_argument("--wheels", metavar="DIR", help="of --bundle: wheels, if not downloaded")
    suite.add_argument("--python", metavar="X.Y", help="of --bundle: Python of that machine")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and record; returns the exit code of the contract."""
    try:
        if arguments.suite or arguments.bundle:
            from willfit.cli.suite import run_suite_command

            return run_suite_command(arguments)
        return _run(arguments)
    except KeyboardInterrupt:
        print("willfit: interrupted: the run was ended, nothing is left running", file=sys.stderr)
        raise


def _run(arguments: argparse.Namespace) -> int:
    from willfit.live.measure import TIME_LIMIT, measure
    from willfit.live.rows import require_writable

    for name in ("out", "only", "budget", "wheels", "python"):
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name} belongs to --suite: add --suite h200, t4 or cpu")
    scenario, checkpoint = scenario_of(arguments)
    if arguments.record:
        require_writable(Path(arguments.record))
    print(f"willfit: running {scenario.model.id}", file=sys.stderr)
    measurement = measure(
        scenario,
        device=arguments.device,
        time_limit=arguments.time_limit or TIME_LIMIT,
        checkpoint=checkpoint,
    )
    _print(arguments, measurement, scenario)
    if arguments.record:
        _record(arguments, measurement, scenario)
    return exit_code(measurement)


def exit_code(measurement: Measurement) -> int:
    """0 done, 3 out of memory, 5 failed for another reason."""
    if measurement.failure_kind == "out_of_memory":
        return DOES_NOT_FIT
    return FAILED if measurement.failure else DONE


def scenario_of(arguments: argparse.Namespace) -> tuple[Scenario, str | None]:
    """What is to be run, and the folder with its weights where there is one."""
    from willfit.cli.build import build_request

    if arguments.stack:
        raise InputError("measure runs the libraries that are installed: leave --stack out")
    if arguments.live:
        raise InputError("measure runs on the GPU that is there: leave --live out")
    scenario = build_request(_scenario_settings(arguments)).scenario
    if arguments.layers is None:
        return scenario, arguments.checkpoint or _local_weights(scenario)
    if arguments.checkpoint:
        raise InputError("--layers cuts the model and contradicts --checkpoint: leave one out")
    from willfit.live.shortened import shortened

    return shortened(scenario, arguments.layers), None


def _scenario_settings(arguments: argparse.Namespace) -> argparse.Namespace:
    given = {name: value for name, value in vars(arguments).items() if name not in OWN}
    return argparse.Namespace(**given, trace=True)


def _local_weights(scenario: Scenario) -> str | None:
    """The folder that was named, where it has the weights in it."""
    from willfit.live.realise import source_of

    if scenario.model.source != "local":
        return None
    try:
        return source_of(scenario.model)
    except InputError:  # a config alone
        return None


def _record(arguments: argparse.Namespace, measurement: Measurement, scenario: Scenario) -> None:
    from willfit.live.rows import append_row
    from willfit.report.ledger import ledger_row

    row = ledger_row(measurement, scenario, command=command_of(arguments), layers=arguments.layers)
    append_row(Path(arguments.record), row)
    print(f"willfit: one row more in {arguments.record}", file=sys.stderr)


def command_of(arguments: argparse.Namespace) -> str:
    """The command without what is this machine's: files are named without their folders."""
    words = ["willfit", "measure"]
    for name, value in vars(arguments).items():
        if value is None or name in ("record", "json", "trace", "checkpoint"):
            continue
        words += _words(name.rstrip("_").replace("_", "-"), value)
    return shlex.join(words)


def _words(flag: str, value: Any) -> list[str]:
    if flag == "model":
        return [_name(value)]
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return [f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *(_name(each) for each in values)]


def _name(value: Any) -> str:
    text = str(value)
    return Path(text).name if Path(text).exists() else text


def _print(arguments: argparse.Namespace, measurement: Measurement, scenario: Scenario) -> None:
    from willfit.live.beside import beside
    from willfit.report import measurement as report
    from willfit.report.text import Style

    placed = _placed(scenario, measurement)
    levels = levels_of(placed, measurement, trace=bool(arguments.trace))
    lines = beside(measurement, levels)
    measurement = replace(measurement, notes=(*_notes(arguments, measurement), *measurement.notes))
    if arguments.json:
        content = report.measurement_json(measurement, placed, levels, lines)
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    style = Style(color=sys.stdout.isatty())
    sys.stdout.write(report.render(measurement, placed, levels, lines, style))


def _placed(scenario: Scenario, measurement: Measurement) -> Scenario:
    """On the GPUs that were measured; as asked for where none was reached."""
    from willfit.live.measured.facts import on_these

    if not measurement.device:
        return scenario
    return on_these(scenario, measurement.gpus, measurement.versions)


def levels_of(scenario: Scenario, measurement: Measurement, *, trace: bool) -> list[Estimated]:
    """Formula, and trace where it was asked for."""
    from willfit.live.beside import estimated

    on_gpu = measurement.on_gpu or not measurement.device
    levels = [estimated(scenario, "formula", on_gpu=on_gpu)]
    if trace:
        print("willfit: tracing the same", file=sys.stderr)
        levels.append(estimated(scenario, "trace", on_gpu=on_gpu))
    return levels


def _notes(arguments: argparse.Namespace, measurement: Measurement) -> list[str]:
    """Where what is here is not what was asked for."""
    return [*_left_out(arguments), *_another_gpu(arguments, measurement)]


def _left_out(arguments: argparse.Namespace) -> list[str]:
    """The shell's settings of the allocator, which are no part of the scenario."""
    from willfit.live.measured.process import ALLOC_CONF

    if arguments.alloc_conf:
        return []
    return [
        f"{name}={os.environ[name]} of this shell was left out: --alloc-conf gives it to the run "
        "and to the estimates"
        for name in ALLOC_CONF
        if os.environ.get(name)
    ]


def _another_gpu(arguments: argparse.Namespace, measurement: Measurement) -> list[str]:
    if not arguments.gpu or not measurement.device:
        return []
    from willfit.devices import parse_machine

    asked = parse_machine(arguments.gpu).gpus
    if not measurement.gpus:
        return [f"--gpu {arguments.gpu} was asked for, and torch finds no GPU here"]
    if [gpu.name for gpu in asked] == [gpu.name for gpu in measurement.gpus]:
        return []
    return [
        f"--gpu {arguments.gpu} was asked for and {measurement.device} is here: what is beside the "
        "measurement is estimated for the one that is here"
    ]
