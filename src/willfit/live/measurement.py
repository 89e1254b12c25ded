"""Measurement: what one real run took, phase by phase, with what it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Memory over one phase of a run: peaks since the reading before, and what is left."""

    phase: str
    """``load``, ``prefill``, ``decode``, ``forward``, ``backward``, ``step``…"""
    step: int = 0
    """The optimizer's step, from 1; 0 outside of training."""
    allocated_bytes: int
    """Most that live tensors took (``max_memory_allocated``); 0 without CUDA."""
    reserved_bytes: int
    """Most that the caching allocator held (``max_memory_reserved``); 0 without CUDA."""
    held_bytes: int
    """What live tensors take at the phase's end."""
    held_reserved_bytes: int
    """What the allocator holds at the phase's end."""
    process_bytes: int | None
    """This process on the device as NVML has it; None where the driver does not tell."""
    device_bytes: int | None
    """All that is in use on the device (NVML); None without one."""
    host_bytes: int
    """Resident memory of the process at the phase's end."""


@dataclass(frozen=True, kw_only=True)
class Alive:
    """Blocks alive at the allocated peak that the same line of code asked for."""

    where: str
    """``file.py:line function``; "" where no stack was kept."""
    num_bytes: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One real run."""

    device: str
    """Name of the GPU, or ``cpu``."""
    capacity_bytes: int | None = None
    """``total_memory`` as torch has it."""
    driver: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by what was timed: ``load``, ``prefill``, ``decode_token``, ``optimizer_step``."""
    baseline_bytes: int = 0
    """Allocated before the model came: 0 in a fresh process."""
    series: tuple[tuple[int, int, int], ...] = ()
    """(decoded tokens, allocated, reserved) while decoding."""
    alive: tuple[Alive, ...] = ()
    """What was alive at the peak of a step, the largest first."""
    notes: tuple[str, ...] = ()
    failure: str = ""
    """Why the run ended early; "" where it did not."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def peak_of(readings: tuple[Reading, ...], phase: str) -> Reading | None:
    """The reading of that phase with the most allocated; None where there is none."""
    found = [reading for reading in readings if reading.phase == phase]
    return max(found, key=lambda reading: reading.allocated_bytes, default=None)
