"""An argument parser with willfit's manners: one sentence, exit code 1, dashes or underscores."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from willfit.errors import InputError


class Parsed(argparse.Namespace):
    """Arguments, with the command as it was given; `vars` has the arguments alone."""

    __slots__ = ("command_line",)
    command_line: str


class Parser(argparse.ArgumentParser):
    """argparse, but an error is an `InputError` and ``--batch_size`` equals ``--batch-size``."""

    intermixed = False
    """Whether words that are no options may stand between options."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, or with words and options in any order; a `Parsed` by default."""
        given = sys.argv[1:] if args is None else list(args)
        into = Parsed() if namespace is None else namespace
        parse = self.parse_intermixed_args if self.intermixed else super().parse_args
        parsed = parse(given, into)
        if isinstance(parsed, Parsed):
            parsed.command_line = f"{self.prog} {shlex.join(given)}"
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and leaving with 2; name the nearest flag of a typo."""
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            given = unknown[1].split("=")[0]
            near = difflib.get_close_matches(given, self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see '{self.prog} --help'"
            raise InputError(f"unknown argument {unknown[1]!r} for '{self.prog}': {hint}")
        raise InputError(f"{message}; see '{self.prog} --help'")


def quoted_words(settings: str) -> list[str]:
    """The words of settings that were given in quotes, as a shell would cut them."""
    try:
        return with_dashes(shlex.split(settings))
    except ValueError as error:
        raise InputError(f"cannot read the settings {settings[:80]!r}: {error}") from None


def with_dashes(argv: Sequence[str]) -> list[str]:
    """Arguments with dashes for underscores in option names (values stay as they are)."""
    return [_dashed(token) for token in argv]


def _dashed(token: str) -> str:
    name, equals, value = token.partition("=")
    if not name.startswith("--") or " " in name:  # settings in quotes have names of their own
        return token
    return name.replace("_", "-") + equals + value


def positive_int(text: str) -> int:
    """An integer ≥ 1."""
    try:
        number = whole_number(text)
    except argparse.ArgumentTypeError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def whole_number(text: str) -> int:
    """An integer ≥ 0; ``4k`` and ``32K`` are thousands of 1024 tokens."""
    match = re.fullmatch(r"([0-9_]{1,15})([kK]?)", text.strip())
    if match is None or not match[1].strip("_"):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(match[1].strip("_")) * (1024 if match[2] else 1)


def fraction(text: str) -> float:
    """A number from 0 up to, not including, 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, got {text!r}")
    return number


def positive_float(text: str) -> float:
    """A finite number ≥ 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return number
