"""Single buffers: back ends that refuse one large piece while the memory is there."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, likely
from willfit.doctor.causes.numbers import Numbers
from willfit.doctor.causes.words import is_of, says
from willfit.doctor.report import Report
from willfit.units import GIB, MIB

XPU_LIMIT: Final = 4 * GIB
"""Intel's default limit of one allocation (its message: "larger than 4GB")."""
VULKAN_LIMIT: Final = 2 * GIB
"""Smallest maxMemoryAllocationSize among drivers of desktop cards (AMD's on Windows; others stop
just below 4 GiB). llama.cpp cuts weights into pieces below the limit, so that a larger piece is a
cache or a compute buffer that cannot be cut."""
NOTHING: Final = 4 * MIB
"""At most so much is in tensors: this was the first allocation that counts."""
_METAL: Final = re.compile(r"Invalid buffer size")
_XPU: Final = re.compile(r"larger than 4 ?GB")


def _find(report: Report) -> Cause | None:
    numbers = Numbers(report)
    tried = numbers.tried or 0
    if says(report, _METAL):
        return certain(
            "allocator_limit",
            "Metal refuses one buffer of this size, whatever is free: "
            "a part of memory is the most that a buffer may be.",
        )
    if is_of(report, "pytorch-xpu") and (says(report, _XPU) or tried >= XPU_LIMIT):
        return likely(
            "allocator_limit",
            f"One piece of {amount(tried)}: the driver's limit is 4 GiB a piece.",
            _held(numbers),
        )
    first = numbers.allocated is not None and numbers.allocated <= NOTHING < tried
    if is_of(report, "pytorch-hip", "pytorch-xpu") and first:
        return likely(
            "allocator_limit",
            _held(numbers),
            f"It is {amount(tried)} in one piece that is refused, not the sum: what the driver "
            "shows or allows at once is less.",
        )
    if is_of(report, "llama.cpp-vulkan"):
        return _vulkan(tried)
    return None


def _vulkan(tried: int) -> Cause:
    if tried >= VULKAN_LIMIT:
        return likely(
            "allocator_limit",
            f"One buffer of {amount(tried)}: Vulkan's drivers allow 2 "
            "to 4 GiB in one piece (maxMemoryAllocationSize).",
        )
    return likely(
        "model_too_big",
        f"A piece of {amount(tried)}, below every driver's limit, is "
        "refused while weights are placed: the device's heap is full.",
    )


def _held(numbers: Numbers) -> str:
    allocated = numbers.allocated
    if allocated is None or allocated > NOTHING:
        return ""
    free = f" and {amount(numbers.free)} is free" if numbers.free else ""
    return f"Only {amount(allocated)} is in use{free}."


RULE: Final = Rule(
    name="single buffer",
    mechanism="These drivers bound one allocation: a piece may be refused on an empty card.",
    find=_find,
)
