"""The ``willfit`` command: finds the command's module, runs it, turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from willfit.cli.parser import Parser, with_dashes
from willfit.errors import WillfitError

COMMANDS: Final[dict[str, str]] = {
    "estimate": "what a model takes on a GPU, and whether it fits",
    "plan": "the smallest change that makes it fit, or the fastest way to run it",
    "where": "the same job at many places: fits, hours, cost",
    "doctor": "what a failure was, and what to change; what costs memory in your code",
    "compare": "several models or settings side by side, estimated or measured",
    "measure": "the real thing in a fresh process, beside the estimate",
    "run": "several models on the same GPUs, one after another, resumable",
    "status": "how far a run is, and what would be computed again, and why",
    "bundle": "a pipeline with all that it needs, for a notebook without internet",
    "diff": "which component moved between two estimates",
    "serve": "a page in the browser with all of this",
    "gpus": "the GPUs that are known, or those of this machine",
    "models": "the models that are known without network",
}
"""Commands and their one-line help; each is the module ``willfit.cli.<name>``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0, 1, 3, 4, 5 or 130)."""
    try:
        code = _run(with_dashes(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except WillfitError as error:
        print(f"willfit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in COMMANDS:
        module = importlib.import_module(f"willfit.cli.{name}")
        parser = Parser(prog=f"willfit {name}", description=f"{module.__doc__}")
        module.configure(parser)
        try:
            arguments = parser.parse_args(argv[1:])
        except SystemExit as leaving:  # --help
            return int(leaving.code or 0)
        code: int = module.run(arguments)
        return code
    return _top_level(argv)


def _top_level(argv: list[str]) -> int:
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="willfit",
        description="Will this model fit on my GPU, and if not, what is the smallest change?",
        epilog="commands:\n"
        + "\n".join(f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items())
        + "\n\n'willfit COMMAND --help' shows the settings of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="willfit COMMAND [settings]",
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    parser.add_argument("command", nargs="?", choices=tuple(COMMANDS), metavar="COMMAND")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    if arguments.version:
        from willfit._version import __version__

        print(f"willfit {__version__}")
        return 0
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
