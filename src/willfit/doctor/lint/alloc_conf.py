"""Options of torch's allocator in a text of somebody's: those that torch refuses or ignores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.allocator.config import KEYS, parse_alloc_conf
from willfit.doctor.lint.finding import Severity
from willfit.doctor.lint.spelling import distance
from willfit.errors import InputError

_ASYNC: Final = "backend:cudaMallocAsync"
_NATIVE: Final = (
    "max_split_size_mb", "roundup_power2_divisions", "garbage_collection_threshold",
    "expandable_segments",
)  # fmt: skip
"""Options that only the native backend reads."""


def conf_problems(text: str) -> Iterator[tuple[str, str, Severity]]:
    """Message, fix (quoted where it may replace the text) and severity of what is wrong."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    fixed = [_fixed(item) for item in items]
    whole = f'"{",".join(fixed)}"'
    if fixed != items and _reads(",".join(fixed)):
        wrong = [item for item, right in zip(items, fixed, strict=True) if item != right]
        yield f"the allocator has no option {', '.join(wrong)}: torch refuses it", whole, "error"
        return
    if "[" not in text and not _reads(text):
        yield (
            f"torch refuses {text[:60]!r}: {_why(text)}",
            "expandable_segments:True, or remove it",
            "error",
        )
        return
    if _ASYNC in items:
        idle = [item for item in items if item.partition(":")[0] in _NATIVE]
        if idle:
            kept = ",".join(item for item in items if item not in idle)
            message = f"{_ASYNC} ignores {', '.join(idle)}: these are the native allocator's"
            yield message, f'"{kept}"', "ignored"


def _fixed(item: str) -> str:
    """An option as it must be spelled: a colon, and a key that exists."""
    key, sign, value = item.partition(":")
    if not sign and "=" in item:
        key, _, value = item.partition("=")
    key, value = key.strip(), value.strip()
    if value.lower() in ("true", "false"):
        value = value.capitalize()
    if key not in KEYS:
        near = [one for one in KEYS if distance(key, one) <= 2 or one == f"{key}_mb"]
        key = near[0] if len(near) == 1 else key
    return f"{key}:{value}"


def _reads(text: str) -> bool:
    try:
        parse_alloc_conf(text)
    except InputError:
        return False
    return True


def _why(text: str) -> str:
    try:
        parse_alloc_conf(text)
    except InputError as error:
        return str(error)
    return ""
