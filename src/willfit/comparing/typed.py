"""JSON back to the dataclass that it came from, every value checked against its field's type."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from willfit.dtypes import DType, parse_dtype
from willfit.errors import BrokenFileError

MOST_ITEMS: Final = 100_000
"""Entries of a list or an object that are read."""

LONGEST: Final = 4096
"""Characters of a text that are read; Python converts no numbers much longer than that."""


def made(kind: Any, value: Any, where: str = "it") -> Any:
    """The value as that type; raises `BrokenFileError` naming the place where it is none.

    Keys that are not known are passed over: files of later releases have more of them.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(typing.get_args(kind), value, where)
    if origin is typing.Literal:
        return _checked(value, value in typing.get_args(kind), where)
    if is_dataclass(kind) and isinstance(kind, type) and kind is not DType:
        return _object(kind, value, where)
    if origin is tuple:
        return _sequence(typing.get_args(kind), value, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(typing.get_args(kind), value, where)
    return _plain(kind, value, where)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        try:
            return made(kind, value, where)
        except BrokenFileError:
            continue
    raise _broken(where)


def _object(kind: type, value: Any, where: str) -> Any:
    _checked(value, isinstance(value, Mapping), where)
    hints = typing.get_type_hints(kind)
    given = {
        field.name: made(hints[field.name], value[field.name], f"{where}.{field.name}")
        for field in fields(kind)
        if field.init and field.name in value
    }
    try:
        return kind(**given)
    except TypeError:
        raise _broken(where) from None


def _sequence(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _checked(value, isinstance(value, list) and len(value) <= MOST_ITEMS, where)
    if kinds[-1] is not Ellipsis:
        _checked(value, len(kinds) == len(value), where)
        return tuple(made(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    return tuple(made(kinds[0], item, where) for item in value)


def _mapping(kinds: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    _checked(value, isinstance(value, Mapping) and len(value) <= MOST_ITEMS, where)
    numbers = kinds[0] is not str  # JSON has no keys but text
    return {
        int(key) if numbers and key.isdecimal() else key: made(kinds[1], item, where)
        for key, item in value.items()
    }


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is DType:
        return parse_dtype(_checked(value, isinstance(value, str), where))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str:
        plain = isinstance(value, str) and value.isprintable() and len(value) <= LONGEST
        return _checked(value, plain, where)
    return _checked(value, type(value) is kind, where)


def _checked(value: Any, right: bool, where: str) -> Any:
    if not right:
        raise _broken(where)
    return value


def _broken(where: str) -> BrokenFileError:
    return BrokenFileError(
        f"{where} is not what willfit writes there: save it again with 'willfit estimate … --json'"
    )
