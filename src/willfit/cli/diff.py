"""Which component moved between two estimates."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Final

from willfit.cli.parser import Parser, with_dashes
from willfit.errors import BrokenFileError, InputError

_MAX_FILE_BYTES: Final = 16 * 2**20
"""Bound on a saved estimate; a real one has some ten kilobytes."""


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit diff``."""
    for name in ("a", "b"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            help="a file saved from 'willfit estimate … --json', or settings in quotes",
        )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print both estimates side by side, largest movement first."""
    from willfit.report.diff import diff_json, render_diff

    before, after = _load(arguments.a), _load(arguments.b)
    difference = diff_json(before, after)
    if arguments.json:
        sys.stdout.write(json.dumps(difference, indent=2) + "\n")
    else:
        sys.stdout.write(render_diff(difference))
    return 0


def _load(given: str) -> dict[str, Any]:
    """A saved estimate, or the estimate of settings such as ``"llama-3-8b --gpu T4"``."""
    path = Path(given)
    try:
        if path.suffix == ".json" and path.is_file():
            return _read(path)
    except OSError as error:
        raise InputError(f"cannot read {given}: {error.strerror}") from None
    if path.suffix == ".json" and " " not in given:
        raise InputError(f"{given} does not exist: save one with 'willfit estimate … --json'")
    return _compute(given)


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise BrokenFileError(f"{path} is larger than 16 MiB: expected a saved estimate")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise BrokenFileError(f"{path} is not JSON: expected a saved estimate") from None
    if not isinstance(content, dict) or content.get("schema") != "willfit.estimate/1":
        raise InputError(
            f"{path} is not a saved estimate (schema willfit.estimate/1): "
            "save one with 'willfit estimate … --json'"
        )
    return content


def _compute(settings: str) -> dict[str, Any]:
    from willfit.cli import estimate as command
    from willfit.report.contract import estimate_json

    parser = Parser(prog="willfit estimate")
    command.configure(parser)
    try:
        words = with_dashes(shlex.split(settings))
    except ValueError as error:
        raise InputError(f"cannot read the settings {settings[:80]!r}: {error}") from None
    words = words[1:] if words[:1] == ["estimate"] else words
    return estimate_json(command.compute(parser.parse_args(words))[0])
