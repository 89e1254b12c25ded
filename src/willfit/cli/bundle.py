"""A pipeline with all that it needs, to be run where there is no internet."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from willfit.cli.needs import require_run_extra
from willfit.cli.parser import Parser, positive_int

if TYPE_CHECKING:
    from willfit.runner.bundle import Bundle


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit bundle``."""
    parser.add_argument("pipeline", metavar="PIPELINE", help="a YAML, TOML or JSON file")
    parser.add_argument(
        "--for", dest="place", choices=("kaggle",), required=True, help="where it will run"
    )
    parser.add_argument(
        "--out", metavar="DIR|FILE.zip", help="where it is made (default: NAME-bundle)"
    )
    parser.add_argument(
        "--wheels", metavar="DIR", help="wheels that are there, in place of downloading them"
    )
    parser.add_argument("--python", metavar="X.Y", help="Python of the image (default: Kaggle's)")
    parser.add_argument(
        "--map",
        nargs="+",
        action="extend",
        default=[],
        metavar="HERE=/kaggle/input/THERE",
        help="where data, a model or an adapter will be",
    )
    parser.add_argument(
        "--include",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="data, adapters and other files that go into the bundle",
    )
    parser.add_argument(
        "--with",
        dest="extra",
        nargs="+",
        action="extend",
        default=[],
        metavar="PACKAGE",
        help="packages that your code needs and the image lacks",
    )
    parser.add_argument(
        "--rows", type=positive_int, metavar="N", help="rows of the data, if it is not here"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the bundle and say what it lacks."""
    require_run_extra()
    from willfit.runner.bundle import bundle

    made = bundle(
        arguments.pipeline,
        out=arguments.out,
        wheels=arguments.wheels,
        python=arguments.python,
        maps=arguments.map,
        include=arguments.include,
        extra=arguments.extra,
        rows=arguments.rows,
    )
    sys.stdout.write("\n".join(_lines(made)) + "\n")
    return 0


def _lines(made: Bundle) -> Iterator[str]:
    from willfit.report.text import wrapped
    from willfit.units import format_bytes

    yield f"{made.path}: {format_bytes(made.num_bytes)}, to be uploaded as a dataset"
    wheels = ", ".join(f"{name} {version}" for name, version in made.wheels)
    yield from wrapped(f"wheels: {wheels}", first="  ", rest="    ")
    for path in made.attached:
        yield f"  attach: {path}"
    yield from wrapped(f"disk: {made.room}", first="  ", rest="    ")
    for sentence in made.sentences:
        yield from wrapped(f"to do: {sentence}", first="  ", rest="    ")
