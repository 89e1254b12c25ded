"""How far a run is, and what the same command would compute again, and why."""

from __future__ import annotations

import argparse
import json
import sys

from willfit.cli.files import write_text
from willfit.cli.needs import require_run_extra
from willfit.cli.parser import Parser
from willfit.cli.pictures import add_html_option, checked, command_of


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit status``."""
    parser.add_argument(
        "run", metavar="RUN", help="a run folder, or the pipeline file that was run here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_html_option(parser, "the last run's report")


def run(arguments: argparse.Namespace) -> int:
    """Print the state of a run."""
    require_run_extra()
    checked(arguments)
    from willfit.report.run import render_status
    from willfit.runner.status import status

    found = status(arguments.run)
    text = json.dumps(found.json(), indent=2) + "\n" if arguments.json else render_status(found)
    sys.stdout.write(text)
    if arguments.html is not None:
        from willfit.report.html.run import run_html
        from willfit.runner.folder import RunFolder
        from willfit.runner.saved import read_report

        report = read_report(RunFolder(path=found.folder).report)
        write_text(arguments.html, run_html(report, command=command_of(arguments)))
    return 0
