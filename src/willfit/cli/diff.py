"""Which component moved between two estimates, and whether any grew past what is allowed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from willfit.cli.estimate import DOES_NOT_FIT, DONE, NO_TRUSTWORTHY_NUMBER
from willfit.cli.parser import Parser
from willfit.cli.saved import SUFFIXES, read_saved
from willfit.errors import InputError


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit diff``."""
    for name in ("a", "b"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            help="a file of 'willfit estimate … --json' or --html, or settings in quotes",
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 3 where a component of B, or its peak, is more than A's",
    )
    parser.add_argument(
        "--allow",
        metavar="1%|64MiB",
        help="with --check: how much each may grow, as a share of A's peak or an amount",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print both estimates side by side, largest movement first; with --check 3 where one grew."""
    from willfit.comparing.growth import parse_allowance
    from willfit.report.diff import diff_json, render_diff

    if arguments.allow is not None and not arguments.check:
        raise InputError("--allow belongs to --check: add --check")
    allowance = parse_allowance(arguments.allow) if arguments.check else None
    before, after = _load(arguments.a), _load(arguments.b)
    difference = diff_json(before, after, allowance)
    if arguments.json:
        sys.stdout.write(json.dumps(difference, indent=2) + "\n")
    else:
        sys.stdout.write(render_diff(before, after, allowance))
    if not arguments.check:
        return DONE
    if not difference["check"]["passes"]:
        return DOES_NOT_FIT
    untrusted = before.get("unsupported") or after.get("unsupported")
    return NO_TRUSTWORTHY_NUMBER if untrusted else DONE


def _load(given: str) -> dict[str, Any]:
    """A saved estimate, or the estimate of settings such as ``"llama-3-8b --gpu T4"``."""
    path = Path(given)
    try:
        if path.suffix in SUFFIXES and path.is_file():
            return read_saved(path, ("willfit.estimate/1",))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {given[:200]}: {error}") from None
    if path.suffix in SUFFIXES and " " not in given:
        raise InputError(f"{given} does not exist: save one with 'willfit estimate … --json'")
    from willfit.cli.quoted import quoted_estimate
    from willfit.report.contract import estimate_json

    return estimate_json(quoted_estimate(given))
