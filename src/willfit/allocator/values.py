"""How the allocator's configuration writes its values; a wrong one says what was expected.

Bounds: torch 2.13 c10/core/AllocatorConfig.cpp and c10/cuda/CUDAAllocatorConfig.cpp. Every reader
raises `ValueError` with the words that follow "takes".
"""

from __future__ import annotations

from willfit.allocator.rounding import SIZE_CLASSES


def flag(value: str) -> bool:
    """``True`` or ``False``, written so."""
    if value not in ("True", "False"):
        raise ValueError("True or False, written so")
    return value == "True"


def whole(value: str, least: int = 0) -> int:
    """A whole number from ``least`` on."""
    if not (value.isascii() and value.isdecimal()) or int(value) < least:
        raise ValueError(f"a whole number, {least} or more")
    return int(value)


def share(value: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("a number from 0 to 1")
    return number


def threshold(value: str) -> float:
    """A number between 0 and 1, both excluded."""
    number = share(value)
    if number in (0, 1):
        raise ValueError("a number between 0 and 1, both excluded")
    return number


def power2(value: str, most: int = 2**62, *, zero: bool = False) -> int:
    """A power of two up to ``most``, or 0 where it means none."""
    number = int(value) if value.isascii() and value.isdecimal() else -1
    if number == 0 and zero:
        return 0
    if not 0 < number <= most or number & (number - 1):
        raise ValueError(f"a power of two up to {most}" + (", or 0 for none" if zero else ""))
    return number


def divisions(value: str) -> tuple[int, ...]:
    """By size class: one number for all, or a list such as ``[64:8,256:4,>:1]``, MiB: divisions.

    A list's first number also serves what is smaller, its ``>`` what is larger than its last;
    classes in between that it does not name have 0.
    """
    if not value.startswith("["):
        return (power2(value),) * SIZE_CLASSES
    if not value.endswith("]"):
        raise ValueError("a list that ends in ]")
    classes, last, first = [0] * SIZE_CLASSES, 0, True
    for item in filter(None, value[1:-1].split(",")):
        start, _, number = item.partition(":")
        wanted = power2(number, zero=True)
        if start == ">":
            classes[last + 1 :] = [wanted] * (SIZE_CLASSES - last - 1)
            continue
        last = min(power2(start).bit_length() - 1, SIZE_CLASSES - 1)
        if first:
            classes[:last] = [wanted] * last
        classes[last], first = wanted, False
    return tuple(classes)


def backend(value: str) -> str:
    """``native`` or ``cudaMallocAsync``."""
    if value not in ("native", "cudaMallocAsync"):
        raise ValueError("native or cudaMallocAsync")
    return value
