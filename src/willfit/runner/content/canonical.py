"""Plain JSON values in one spelling, so that equal values have equal bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from willfit.errors import InputError

_EXACT: Final = 2**53
"""Below it every whole float is that integer."""


def canonical(value: Any) -> str:
    """JSON without a choice: sorted names, whole floats as integers, nothing that is None.

    Raises `InputError` on NaN and infinities, TypeError on values that JSON does not have.
    """
    known = without_none(plain_copy(value))
    return json.dumps(known, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain_copy(value: Any, name: str = "ingredients") -> Any:
    """A copy in JSON's own types; ``name`` says where the value stands."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # the text of an enum, not its name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(float(value), name)
    if isinstance(value, Mapping):
        return {_key(key, name): plain_copy(part, f"{name}: {key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_copy(part, f"{name}, entry {index}") for index, part in enumerate(value)]
    raise TypeError(f"{name}: expected a plain JSON value, got {type(value).__name__}")


def _key(key: object, name: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{name}: expected names as keys, got {key!r}")
    return key


def _number(value: float, name: str) -> int | float:
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}, expected a finite number")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def without_none(values: Any) -> Any:
    """Without what is None, at any depth of mappings."""
    if isinstance(values, Mapping):
        return {name: without_none(part) for name, part in values.items() if part is not None}
    return values
