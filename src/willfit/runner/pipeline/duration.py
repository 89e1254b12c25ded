"""Lengths of time as people write them: ``8h30m``, ``90m``, ``1.5s``; seconds inside."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from willfit.errors import InputError
from willfit.runner.pipeline.values import fault, shown

EXPECTED: Final = "a duration such as 8h30m, 90m or 3600 (seconds)"
LONGEST: Final = 366 * 86_400
"""Seconds that a duration may have: a year, beyond any run."""

_SECONDS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PARTS: Final = re.compile(
    "".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?)\s*{unit}\s*)?" for unit in _SECONDS), re.ASCII | re.I
)
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_CLOCK: Final = re.compile(r"(\d{1,3}):(\d{1,2})(?::(\d{1,2}))?", re.ASCII)


def parse_duration(text: str | float) -> float:
    """Seconds of a duration: units d, h, m, s from the largest down, or a number of seconds.

    Raises `InputError` for anything else, for zero, and beyond a year.
    """
    seconds = _seconds(text)
    if seconds is None or not 0 < seconds <= LONGEST:
        raise InputError(f"{shown(text)} is no duration, expected {EXPECTED}{_fix(text)}")
    return seconds


def format_duration(seconds: float) -> str:
    """Text that `parse_duration` reads back, to the millisecond: ``8h30m``, ``1.5s``."""
    rest = round(Decimal(str(seconds)), 3)
    parts = []
    for unit, size in _SECONDS.items():
        amount, rest = (rest, Decimal(0)) if unit == "s" else (rest // size, rest % size)
        if amount:
            parts.append(f"{amount.normalize():f}{unit}")
    return "".join(parts) or "0s"


def _seconds(text: Any) -> float | None:
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return float(text) if 0 < text <= LONGEST else None
    if not isinstance(text, str) or len(text) > 40:
        return None
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _PARTS.fullmatch(text)
    if parts is None or not any(parts.groups()):
        return None
    return float(sum(Decimal(parts[unit] or 0) * size for unit, size in _SECONDS.items()))


def _fix(text: Any) -> str:
    """What to write for a time of the clock: ``12:30:00`` is ``12h30m``."""
    clock = _CLOCK.fullmatch(text.strip()) if isinstance(text, str) else None
    if clock is None:
        return ""
    if clock[3] is None:
        return f": write {int(clock[1])}h{int(clock[2])}m or {int(clock[1])}m{int(clock[2])}s"
    parts = zip(map(int, clock.groups()), "hms", strict=True)
    return ": write " + ("".join(f"{amount}{unit}" for amount, unit in parts if amount) or "1s")


def _validated(value: Any) -> float:
    try:
        return parse_duration(value)
    except InputError:
        raise fault(EXPECTED + _fix(value)) from None


Duration = Annotated[
    float,
    BeforeValidator(_validated, json_schema_input_type=float | str),
    Field(examples=["8h30m", "90m", 3600]),
]
"""Seconds, read by `parse_duration`."""
