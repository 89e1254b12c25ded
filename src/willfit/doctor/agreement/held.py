"""Held: what a process had on its GPU when it failed, as far as the message tells."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.doctor.report import Report


@dataclass(frozen=True, kw_only=True)
class Held:
    """Amounts of one message, in bytes."""

    allocated_bytes: int
    """Live tensors."""
    tried_bytes: int
    """What was asked for on top."""
    total_bytes: int | None
    free_bytes: int | None
    reserved_bytes: int | None

    @property
    def needed_bytes(self) -> int:
        """What live tensors would have come to: the run's peak is this or more."""
        return self.allocated_bytes + self.tried_bytes

    @property
    def outside_bytes(self) -> int | None:
        """What is on the device besides PyTorch's segments: contexts, libraries, others."""
        if self.total_bytes is None or self.free_bytes is None or self.reserved_bytes is None:
            return None
        return max(self.total_bytes - self.free_bytes - self.reserved_bytes, 0)


def held_of(report: Report) -> Held | None:
    """None where the message does not say how much was allocated."""
    fields = report.fields
    allocated = fields.get("allocated_bytes")
    if not isinstance(allocated, int):
        return None
    reserved = fields.get("reserved_bytes")
    unallocated = fields.get("reserved_unallocated_bytes")
    if reserved is None and unallocated is not None:
        reserved = allocated + unallocated
    return Held(
        allocated_bytes=allocated,
        tried_bytes=fields.get("tried_bytes", 0),
        total_bytes=fields.get("total_bytes"),
        free_bytes=fields.get("free_bytes"),
        reserved_bytes=reserved,
    )
