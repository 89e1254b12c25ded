"""Several models on the same GPUs, one after another: memory back, nothing lost."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

from willfit.cli.files import check_place, write_text
from willfit.cli.needs import require_run_extra
from willfit.cli.parser import Parser
from willfit.cli.pictures import add_html_option, checked, command_of
from willfit.errors import InputError

DONE: Final = 0
INTERRUPTED: Final = 130


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit run``."""
    parser.add_argument("pipeline", metavar="PIPELINE", help="a YAML, TOML or JSON file")
    parser.add_argument("--fresh", action="store_true", help="compute again what is there")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where results lie (default: runs/NAME of the file)"
    )
    parser.add_argument(
        "--resume-from", metavar="DIR", help="an earlier run's folder, read only, to go on from"
    )
    parser.add_argument(
        "--backend",
        choices=("local", "ray"),
        help="this machine, or the nodes of a Ray cluster (default: what the file says)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what is missing, what will be computed again and why, and whether it fits",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_html_option(parser, "the report")
    parser.add_argument(
        "--quiet", action="store_true", help="no progress, only the report at the end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the pipeline and print its report."""
    require_run_extra()
    from willfit.cli.watching import observer
    from willfit.report.run import ready_json, render_ready, render_run
    from willfit.runner.run import dry_run
    from willfit.runner.run import run as run_pipeline

    checked(arguments)
    if arguments.dry_run and arguments.html is not None:
        raise InputError("--html shows what a run came to: leave --dry-run out")
    check_place(arguments.html)
    signal.signal(signal.SIGTERM, _interrupt)
    if arguments.dry_run:
        with observer(quiet=arguments.quiet) as watching:
            ready = dry_run(arguments.pipeline, run_dir=arguments.run_dir, observer=watching)
        text = json.dumps(ready_json(ready), indent=2) + "\n"
        sys.stdout.write(text if arguments.json else render_ready(ready))
        return DONE
    try:
        with observer(quiet=arguments.quiet) as watching:
            report = run_pipeline(
                arguments.pipeline,
                run_dir=arguments.run_dir,
                fresh=arguments.fresh,
                resume_from=arguments.resume_from,
                backend=arguments.backend,
                observer=watching,
            )
    except KeyboardInterrupt:
        print(
            "willfit: interrupted; every worker is gone, what is computed is kept, and the same "
            "command goes on from here",
            file=sys.stderr,
        )
        return INTERRUPTED
    if arguments.json:
        sys.stdout.write(json.dumps(report.json(), indent=2) + "\n")
    else:
        sys.stdout.write(render_run(report))
    if arguments.html is not None:
        from willfit.report.html.run import run_html

        write_text(arguments.html, run_html(report, command=command_of(arguments)))
    return DONE


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
