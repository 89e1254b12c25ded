"""Command lines as words and options; nothing is run."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from willfit.errors import InputError


def words_of(command: str) -> list[str]:
    """Words as a shell would split them, line continuations joined."""
    try:
        return shlex.split(command.replace("\\\n", " "))
    except ValueError as error:
        raise InputError(f"cannot read the command {command[:60]!r}: {error}") from None


def options(
    words: Sequence[str], *, short: Mapping[str, str], switches: Collection[str]
) -> tuple[str | None, dict[str, Any]]:
    """The first word that is no option, and the options by their long names.

    ``short`` gives long names of short ones, ``switches`` the options that take no value.
    """
    first: str | None = None
    found: dict[str, Any] = {}
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("-"):
            first = first or word
            continue
        name, equals, value = word.lstrip("-").partition("=")
        key = short.get(name, name).replace("-", "_")
        takes_value = index < len(words) and not words[index].startswith("--")
        if equals:
            found[key] = value
        elif takes_value and key not in switches:
            found[key] = words[index]
            index += 1
        else:
            found[key] = True
    return first, found
