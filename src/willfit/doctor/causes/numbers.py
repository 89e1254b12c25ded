"""Numbers: what a report's amounts come to, and subtraction as people write it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from willfit.doctor.amounts import UNITS, read_amount, rounded
from willfit.doctor.report import Report
from willfit.units import GIB

CONTEXT: Final = GIB * 3 // 2
"""Largest part of a device that one process commonly holds outside PyTorch's allocator: CUDA
context, cuBLAS, NCCL. Of 15 public messages that print both figures the median is 0.5 GiB; above
1.5 GiB NCCL and several libraries were in the process."""
NO_SIZE: Final = 2**50
"""From here on a printed amount is no memory: NVML's "not available" is 2⁶⁴ − 1."""


@dataclass(frozen=True)
class Numbers:
    """Amounts of one report; None where the text does not say."""

    report: Report

    def of(self, name: str) -> int | None:
        """The amount of that name in bytes."""
        value = self.report.fields.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def slack(self, *names: str) -> int:
        """How much a sum of these may be off: each is printed with two decimals."""
        texts = (self.report.printed.get(name) for name in names)
        return sum(read_amount(text).slack_bytes for text in texts if text)

    @property
    def tried(self) -> int | None:
        """X, asked for."""
        exact = self.of("tried_bytes_exact")
        return self.of("tried_bytes") if exact is None else exact

    @property
    def total(self) -> int | None:
        """T, of the device."""
        return self.of("total_bytes")

    @property
    def free(self) -> int | None:
        """F, of the whole device."""
        return self.of("free_bytes")

    @property
    def allocated(self) -> int | None:
        """A, in live tensors of this process."""
        return self.of("allocated_bytes")

    @cached_property
    def unallocated(self) -> int | None:
        """U, reserved by the allocator and in no tensor."""
        said, reserved = self.of("reserved_unallocated_bytes"), self.of("reserved_bytes")
        if said is None and reserved is not None and self.allocated is not None:
            return max(0, reserved - self.allocated)
        return said

    @cached_property
    def reserved(self) -> int | None:
        """R = A + U, taken from the device by this process's allocator."""
        said = self.of("reserved_bytes")
        if said is None and self.allocated is not None and self.unallocated is not None:
            return self.allocated + self.unallocated
        return said

    @cached_property
    def outside(self) -> int | None:
        """T − F − R: on the device and not this allocator's."""
        if self.total is None or self.free is None or self.reserved is None:
            return None
        return self.total - self.free - self.reserved

    @property
    def is_spilling_driver(self) -> bool:
        """A total of whole GiB of which none is free: Windows or WSL, whose driver reports so."""
        return self.total is not None and self.free == 0 and self.total % GIB == 0


def worked_out(first: int, *terms: tuple[str, int, str]) -> str:
    """``14.75 − 0.01 free − 14.54 reserved = 0.20 GiB``: terms are ``(sign, bytes, word)``.

    All in the unit of the largest, each rounded, and the result is that of the rounded ones: what
    a reader who takes it by hand gets.
    """
    largest = max(first, *(term for _, term, _ in terms), 0)
    factor, unit = next((pair for pair in UNITS if largest >= pair[0]), (1, "bytes"))
    result = rounded(first, factor)
    text = str(result)
    for sign, term, word in terms:
        part = rounded(term, factor)
        result += -part if sign == "−" else part
        text += f" {sign} {part}{' ' * bool(word)}{word}"
    return f"{text} = {result} {unit}".replace("= -", "= −")
