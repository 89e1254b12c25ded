"""What a failure was, and what to change: reads a log, traceback, notebook, script or snapshot."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser
from willfit.errors import InputError

FOUND: Final = 3


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit doctor``."""
    add_scenario_options(parser, model_flag=True)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="log, traceback, notebook, script, settings file or memory snapshot; - is stdin",
    )
    group = parser.add_argument_group("doctor")
    group.add_argument(
        "--check", action="store_true", default=None, help="exit with 3 where something is found"
    )
    group.add_argument(
        "--fix", action="store_true", default=None, help="rewrite scripts and notebooks in place"
    )
    group.add_argument(
        "--json", action="store_true", default=None, help="print the contract's JSON"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the diagnosis; returns the exit code of the contract."""
    from willfit.cli.examined import examine
    from willfit.cli.given import given
    from willfit.report.text import Style

    names = arguments.files or (["-"] if not sys.stdin.isatty() else [])
    if not names:
        raise InputError(
            "nothing to read: name a log, notebook, script or snapshot, or pipe the error in, as "
            "in 'python train.py 2>&1 | willfit doctor -'"
        )
    files = list(given(names))
    if arguments.fix:
        from willfit.cli.mended import mend

        for sentence in mend(arguments, files):
            print(f"willfit: {sentence}", file=sys.stderr)
        files = list(given(names))
    style = Style(color=sys.stdout.isatty() and not arguments.json)
    result = examine(arguments, files, style)
    if arguments.json:
        import json

        sys.stdout.write(json.dumps(result.json(), indent=2) + "\n")
    else:
        sys.stdout.write(result.text(style))
    return FOUND if arguments.check and result.found else 0
