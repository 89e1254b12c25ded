"""Amounts as programs print them: a number, a unit, and how precisely it was said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Final

from willfit.units import GIB, KIB, MIB, TIB

NUMBER: Final = r"\d{1,24}(?:[.,]\d{1,12})?"
"""Pattern of a number, the comma of some locales allowed; bounded, so that reading is linear."""
UNIT: Final = r"(?:bytes|[KMGT]i?B|B)"
AMOUNT: Final = rf"{NUMBER}\s?{UNIT}"
"""Pattern of an amount."""

UNITS: Final = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
"""Units in which amounts are printed, the largest first."""
_FACTORS: Final = {"bytes": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SPLIT: Final = re.compile(rf"(?P<number>{NUMBER})\s?(?P<unit>{UNIT})?")


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What a text says, and within what it may be."""

    text: str
    """As printed: ``224.00 MiB``."""
    num_bytes: int
    """The number times its unit, cut."""
    slack_bytes: int
    """Half of the last digit: the true amount is within ± this; 0 for whole bytes."""


def read_amount(text: str, unit: str = "") -> Amount:
    """Amount of ``text``, in ``unit`` where the text has none.

    GB, MB and KB count as 2³⁰, 2²⁰ and 2¹⁰: of the programs that are read here (torch's MPS, Ray,
    SGLang, Paddle, gpustat) each divides by powers of 1024 and prints the decimal unit's name.
    """
    match = _SPLIT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an amount: {text[:40]!r}")
    name = (match["unit"] or unit).lower()
    factor = _FACTORS[name if name == "bytes" else name[0]]
    number = match["number"].replace(",", ".")
    decimals = len(number.partition(".")[2])
    step = Fraction(factor, 10**decimals)
    return Amount(
        text=text.strip(),
        num_bytes=int(Fraction(number) * factor),
        slack_bytes=0 if factor == 1 else -int(-step / 2 // 1),
    )


def amount(num_bytes: int) -> str:
    """Text with two decimals: ``1.70 GiB``, ``509.85 MiB``, ``512 bytes``."""
    for factor, unit in UNITS:
        if abs(num_bytes) >= factor:
            return f"{rounded(num_bytes, factor)} {unit}"
    return f"{num_bytes} bytes"


def rounded(num_bytes: int, factor: int) -> Decimal:
    """The amount in a unit, with the two decimals that messages print; whole bytes as they are."""
    step = Decimal("1") if factor == 1 else Decimal("0.01")
    return (Decimal(num_bytes) / factor).quantize(step, ROUND_HALF_UP)
