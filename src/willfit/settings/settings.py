"""Settings: what was read from a file or a command line, in willfit's own flag names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from willfit.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Flags by their name on the command line (dashes as underscores)."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    ignored: tuple[str, ...] = ()
    """What could not be used, each with its reason where memory depends on it."""
    assumptions: tuple[str, ...] = ()


class Unused(Exception):  # noqa: N818 -- an answer, not a fault of the user
    """A setting that is known and cannot be used as it stands; says why."""


Convert = Callable[[Any], Mapping[str, Any]]
"""Turns one value into flags; raises `InputError` on a wrong value, `Unused` on a useless one."""


def renamed(name: str) -> Convert:
    """A value that is used as it is, under another name."""
    return lambda value: {name: value}


def whole(name: str) -> Convert:
    """A whole number of at least 1."""

    def convert(value: Any) -> Mapping[str, Any]:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise InputError(f"{name} is {str(value)[:40]!r}: expected a whole number")
        try:
            number = int(value)
        except ValueError:
            raise InputError(f"{name} is {str(value)[:40]!r}: expected a whole number") from None
        if number < 1:
            raise InputError(f"{name} is {number}: expected a whole number of at least 1")
        return {name: number}

    return convert


def switch(name: str) -> Convert:
    """A flag that is on or off; off is as if it were not given."""
    return lambda value: {name: True} if value else {}


def both_ways(name: str) -> Convert:
    """A flag whose "no" matters, because the library's default may be "yes"."""
    return lambda value: {name: bool(value)}


def nothing(_: Any) -> Mapping[str, Any]:
    """A setting that memory does not depend on."""
    return {}


def unused(reason: str) -> Convert:
    """A setting that is known and not counted, with the reason why."""

    def convert(_: Any) -> Mapping[str, Any]:
        raise Unused(reason)

    return convert


def convert_all(
    content: Mapping[str, Any], table: Mapping[str, Convert], harmless: Iterable[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Flags of a mapping, and the keys that could not be used.

    Keys that memory does not depend on are gathered in one sentence.
    """
    flags: dict[str, Any] = {}
    left: list[str] = []
    idle: list[str] = []
    quiet = frozenset(harmless)
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if value is None:
            continue
        if name in table:
            try:
                flags.update(table[name](value))
            except Unused as reason:
                left.append(f"{name}: {reason}")
        elif name in quiet:
            idle.append(name)
        else:
            left.append(f"{name}: not a setting that willfit knows")
    if idle:
        left.append(f"memory does not depend on {', '.join(sorted(idle))}")
    return flags, tuple(left)
