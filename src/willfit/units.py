"""Amounts of memory as text: GiB out, every usual unit in; integers of bytes inside."""

from __future__ import annotations

import re
from typing import Final

from willfit.errors import InputError

KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30
TIB: Final = 2**40

_FACTORS: Final[dict[str, int]] = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB,
}  # fmt: skip
_AMOUNT: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse_bytes(text: str | int) -> int:
    """Bytes of an amount such as ``"14.75GiB"``, ``"600MB"`` (10⁶) or ``1024``.

    An integer, or text without a unit, is bytes. ``GB`` is 10⁹ and ``GiB`` is 2³⁰, as in
    accelerate's ``max_memory``. Raises `InputError` on anything else.
    """
    if isinstance(text, bool):
        raise InputError(f"expected an amount of memory such as 600MB or 14.5GiB, got {text!r}")
    if isinstance(text, int):
        if text < 0:
            raise InputError(f"an amount of memory cannot be negative, got {text}")
        return text
    match = _AMOUNT.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None or len(text) > 40:
        raise InputError(
            f"cannot read {text[:40]!r} as an amount of memory: write a number with a unit, "
            "such as 600MB, 14.5GiB or 24GB"
        )
    whole, _, fraction = match[1].partition(".")
    scaled = int(whole or "0") * factor
    return scaled + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def format_bytes(num_bytes: int) -> str:
    """Text of an amount for people: ``14.96 GiB``, ``86.5 MiB``, ``640 B``."""
    sign, amount = ("-", -num_bytes) if num_bytes < 0 else ("", num_bytes)
    if amount >= GIB:
        return f"{sign}{amount / GIB:,.2f} GiB"
    if amount >= MIB:
        return f"{sign}{amount / MIB:.1f} MiB"
    if amount >= KIB:
        return f"{sign}{amount / KIB:.1f} KiB"
    return f"{sign}{amount} B"


def format_exact(num_bytes: int) -> str:
    """Text that `parse_bytes` reads back to the same integer: ``17179869184B``."""
    return f"{num_bytes}B"


def ceil_div(numerator: int, denominator: int) -> int:
    """Integer ceiling of numerator / denominator (denominator > 0)."""
    return -(-numerator // denominator)


def round_up(amount: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is ≥ ``amount``."""
    return ceil_div(amount, multiple) * multiple
