"""Unified memory: devices whose total or limit is not a card's."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.numbers import Numbers
from willfit.doctor.causes.words import TRAINING, has, is_of, marked, says
from willfit.doctor.report import Report
from willfit.units import GIB

CARDS: Final = (2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 48, 64, 192, 256, 288)
"""GiB of AMD's discrete cards and accelerators, per device (AMD's product pages). 128 are two dies
of 64, or memory that is shared: MI300A and Strix Halo."""
SHORT: Final = 0.99
"""ROCm shows a discrete card's memory to within half a percent: 15.92 of 16, 19.94 of 20, 23.98 of
24, 191.69 of 192, 255.98 of 256."""
_RESERVE: Final = re.compile(r"cuMemAddressReserve|virtual address space|Failed to reserve")


def _find(report: Report) -> Cause | None:
    numbers = Numbers(report)
    if marked(report, "address_space", "va_reserve") or says(report, _RESERVE):
        return certain(
            "address_space",
            "Addresses were refused, not memory: an allocator reserves "
            "a large range before it uses it, and the limit is the system's.",
        )
    if has(report, "jetson") and is_of(
        report, "pytorch-cuda", "cuda-error", "nvml-assert", "ollama", "llama.cpp", "cublas"
    ):
        return likely(
            "unified_memory",
            "A Jetson's GPU has no memory of its own: programs, their "
            "files in the page cache and the GPU share it.",
        )
    return _spilled(report, numbers) or _shared(report, numbers)


def _spilled(report: Report, numbers: Numbers) -> Cause | None:
    """A > T: only a driver that spills into system memory can have given it."""
    allocated, total = numbers.allocated, numbers.total
    if not is_of(report, "pytorch-cuda") or allocated is None or total is None:
        return None
    if allocated <= total + numbers.slack("allocated_bytes", "total_bytes"):
        return None
    text = (
        f"{amount(allocated)} in tensors on a card of {amount(total)}: Windows' driver has put the "
        "rest into system memory, and that ran out too"
    )
    name = "activations_batch_seq" if report.context.stage in TRAINING else "model_too_big"
    return likely(name, f"{text}.", f"{allocated / total:.1f} times the card is needed already.")


def _shared(report: Report, numbers: Numbers) -> Cause | None:
    total, free = numbers.total, numbers.free
    if not is_of(report, "pytorch-hip") or total is None:
        return None
    if free is not None and free > total + numbers.slack("free_bytes", "total_bytes"):
        return certain(
            "unified_memory",
            f"{amount(free)} free of {amount(total)}: an APU counts "
            "system memory as free that the total leaves out.",
        )
    if any(SHORT * size * GIB <= total <= size * GIB for size in CARDS):
        return None
    return guess(
        "unified_memory",
        f"{amount(total)} is no discrete card's memory: it is what an "
        "APU's firmware or kernel setting (carve-out, GTT) lets the GPU use.",
    )


RULE: Final = Rule(
    name="unified memory",
    mechanism="Where GPU and system share memory, the printed total is a setting and not a chip.",
    find=_find,
)
