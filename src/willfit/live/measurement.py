"""Measurement: what one real run took, phase by phase, with what it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

FailureKind = Literal["", "out_of_memory", "refused", "died", "not_done"]
"""Why a run ended early: no memory, a library's or our own refusal, the process's end, its time."""
Counter = Literal["torch", "tensors"]
_NO_MEMORY: Final = (
    "out of memory",
    "status_alloc_failed",
    "t allocate memory",
    "not allocate mem",
)
"""Words of CUDA, bitsandbytes, cuBLAS, cuDNN and torch's CPU allocator, in lower case."""


def tells_of_memory(text: str) -> bool:
    """Whether a library's words are of memory that was not there.

    Only torch's caching allocator has a class of errors for it; CUDA's own calls, pinned memory,
    libraries beside torch and the host's allocator raise whatever they have.
    """
    return any(words in text.lower() for words in _NO_MEMORY)


def error_text(error: BaseException, most: int = 600) -> str:
    """The kind of an error and what it says, in one line of some ``most`` characters."""
    return f"{type(error).__name__}: {one_line(error, most)}"


def one_line(error: BaseException, most: int = 600) -> str:
    """What an error says, ``most`` characters of it, in one line."""
    return " ".join(str(error).split())[:most]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Memory over one phase of a run: peaks since the reading before, and what is left."""

    phase: str
    """``load``, ``prefill``, ``decode``, ``forward``, ``backward``, ``step``…"""
    step: int = 0
    """The optimizer's step, from 1; 0 outside of training."""
    gpu_index: int = 0
    """Torch's number of the GPU; 0 where there is none."""
    allocated_bytes: int
    """Most that live tensors took: ``max_memory_allocated``; without CUDA the sum of the bytes of
    all live tensors, as asked for, seen operator by operator."""
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

    @property
    def context_bytes(self) -> int | None:
        """What the process has on the device outside of torch: process − reserved."""
        if self.process_bytes is None:
            return None
        return self.process_bytes - self.held_reserved_bytes


@dataclass(frozen=True, kw_only=True)
class Alive:
    """Blocks alive at the allocated peak that the same line of code asked for."""

    where: str
    """``file.py:line function``; "" where no stack was kept."""
    num_bytes: int
    count: int


@dataclass(frozen=True, kw_only=True)
class MeasuredGpu:
    """One of the GPUs that were measured."""

    index: int
    name: str
    capacity_bytes: int
    """``total_memory`` as torch has it."""
    compute_capability: tuple[int, int]
    idle_bytes: int | None = None
    """In use on it before this process came (NVML); None where NVML does not tell, or where this
    process had a context there before it was read."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One real run."""

    device: str
    """Name of the first GPU, or ``cpu``; "" where the run never got so far."""
    capacity_bytes: int | None = None
    """``total_memory`` of the first GPU as torch has it."""
    gpus: tuple[MeasuredGpu, ...] = ()
    """All GPUs that were used; none without CUDA."""
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
    counted: Counter = "torch"
    """Who counted what is allocated: torch's counters, or the sum of live tensors on the host."""
    notes: tuple[str, ...] = ()
    failure: str = ""
    """Why the run ended early; "" where it did not."""
    failure_kind: FailureKind = ""

    @property
    def on_gpu(self) -> bool:
        """Whether it ran on CUDA."""
        return bool(self.gpus)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def measurement_from(content: Mapping[str, Any]) -> Measurement:
    """The measurement of `Measurement.as_dict`; keys that are not known are passed over."""
    known = {
        entry.name: content[entry.name] for entry in fields(Measurement) if entry.name in content
    }
    known["readings"] = tuple(Reading(**row) for row in known.get("readings", ()))
    known["alive"] = tuple(Alive(**row) for row in known.get("alive", ()))
    known["gpus"] = tuple(_gpu(row) for row in known.get("gpus", ()))
    known["series"] = tuple(tuple(point) for point in known.get("series", ()))
    known["notes"] = tuple(known.get("notes", ()))
    return Measurement(**known)


def _gpu(row: Mapping[str, Any]) -> MeasuredGpu:
    major, minor = row["compute_capability"]
    return MeasuredGpu(**{**row, "compute_capability": (major, minor)})


def peak_of(readings: tuple[Reading, ...], phase: str, gpu_index: int = 0) -> Reading | None:
    """The reading of that phase on that GPU with the most allocated; None where there is none."""
    found = [one for one in readings if (one.phase, one.gpu_index) == (phase, gpu_index)]
    return max(found, key=lambda reading: reading.allocated_bytes, default=None)


def phases_of(readings: tuple[Reading, ...], gpu_index: int = 0) -> tuple[str, ...]:
    """Names of the phases on that GPU, in the order in which they came."""
    return tuple(dict.fromkeys(one.phase for one in readings if one.gpu_index == gpu_index))
