"""How far a run is, and what the same command would compute again, and why."""

from __future__ import annotations

import argparse
import json
import sys

from willfit.cli.needs import require_run_extra
from willfit.cli.parser import Parser


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit status``."""
    parser.add_argument(
        "run", metavar="RUN", help="a run folder, or the pipeline file that was run here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the state of a run."""
    require_run_extra()
    from willfit.report.run import render_status
    from willfit.runner.status import status

    found = status(arguments.run)
    text = json.dumps(found.json(), indent=2) + "\n" if arguments.json else render_status(found)
    sys.stdout.write(text)
    return 0
