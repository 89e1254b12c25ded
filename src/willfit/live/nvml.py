"""The GPUs of this machine through NVML: what is free now, and who holds the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from willfit.devices import find_gpu
from willfit.errors import InputError
from willfit.scenario.machine import Gpu
from willfit.units import MIB

NEARLY_FREE: Final = 300_000_000
"""Bytes in use at which people take a GPU for free: the driver's and little more."""
TOLERANCE: Final = 64 * MIB
"""Bytes above an earlier reading that count as back at it: driver state, no process's own."""


class Nvml(Protocol):
    """The part of ``pynvml`` that is used: one object that has its functions.

    `FakeNvml` stands in for it where there is no GPU.
    """

    def nvmlInit(self) -> None: ...  # noqa: N802, D102 - NVML's own names

    def nvmlShutdown(self) -> None: ...  # noqa: N802, D102

    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802, D102

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802, D102

    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: N802, D102

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802, D102

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> Sequence[int]: ...  # noqa: N802, D102

    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes: ...  # noqa: N802, D102

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> Sequence[Any]: ...  # noqa: N802, D102

    def nvmlSystemGetProcessName(self, pid: int) -> str | bytes: ...  # noqa: N802, D102


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that holds memory on a GPU."""

    pid: int
    name: str
    used_bytes: int | None
    """None where the driver does not tell (Windows, containers)."""


@dataclass(frozen=True, kw_only=True)
class LiveGpu:
    """One GPU as NVML reports it now."""

    name: str
    gpu: Gpu
    """The catalogue's card, with the capacity that this one has."""
    total_bytes: int
    used_bytes: int
    free_bytes: int
    processes: tuple[Process, ...]
    uuid: str = ""
    """``GPU-…``; empty where the driver does not tell."""


def live_gpus(nvml: Nvml | None = None) -> list[LiveGpu]:
    """Every GPU of this machine; raises `InputError` where there is no driver or no GPU."""
    with _session(nvml) as session:
        count = session.nvmlDeviceGetCount()
        if count == 0:
            raise InputError("NVML finds no NVIDIA GPU in this machine: name one, such as --gpu T4")
        return [_read(session, index) for index in range(count)]


@contextmanager
def _session(nvml: Nvml | None) -> Iterator[Nvml]:
    session: Nvml | None = nvml
    if session is None:
        try:
            import pynvml  # type: ignore[import-untyped]  # it has no stubs
        except ImportError:
            raise InputError(
                "reading this machine's GPUs needs the package nvidia-ml-py: "
                "pip install nvidia-ml-py, or name the GPU, such as --gpu T4"
            ) from None
        session = pynvml
    try:
        session.nvmlInit()
    except Exception as error:  # NVMLError has no common base without the library
        raise InputError(
            f"NVML does not answer ({str(error)[:80]}): is there an NVIDIA driver? "
            "Otherwise name the GPU, such as --gpu T4"
        ) from None
    try:
        yield session
    finally:
        session.nvmlShutdown()


def _read(session: Nvml, index: int) -> LiveGpu:
    """One GPU; raises `InputError` where the driver does not tell of it."""
    try:
        return _live(session, session.nvmlDeviceGetHandleByIndex(index))
    except Exception as error:  # a GPU that was lost, one of another user, one of shared memory
        raise InputError(
            f"NVML does not tell of GPU {index} ({str(error)[:80]}): name the GPU, such as --gpu T4"
        ) from None


def _live(session: Nvml, handle: Any) -> LiveGpu:
    name = _text(session.nvmlDeviceGetName(handle))
    memory = session.nvmlDeviceGetMemoryInfo(handle)
    return LiveGpu(
        name=name,
        gpu=_known(session, handle, name, int(memory.total)),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        free_bytes=int(memory.free),
        processes=tuple(_processes(session, handle)),
        uuid=_uuid(session, handle),
    )


def _uuid(session: Nvml, handle: Any) -> str:
    try:
        return _text(session.nvmlDeviceGetUUID(handle))
    except Exception:  # an old driver, or a virtual GPU: it can then not be named so
        return ""


def _known(session: Nvml, handle: Any, name: str, total: int) -> Gpu:
    """The catalogue's card where it is known, else one described by NVML alone.

    NVML's total is more than torch's by what the driver keeps, so the smaller of both counts.
    """
    try:
        card = find_gpu(name)
    except InputError:
        major, minor = session.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(
            name=name,
            capacity_bytes=total,
            compute_capability=(int(major), int(minor)),
            sources={"capacity_bytes": "NVML"},
        )
    return replace(card, capacity_bytes=min(card.capacity_bytes, total))


def _processes(session: Nvml, handle: Any) -> Iterator[Process]:
    try:
        entries = session.nvmlDeviceGetComputeRunningProcesses(handle)
    except Exception:  # virtual GPUs and WSL: the driver does not tell of processes
        return
    for entry in entries:
        used = entry.usedGpuMemory
        try:
            name = _text(session.nvmlSystemGetProcessName(entry.pid))
        except Exception:  # gone, or another user's: the name is not ours to know
            name = "?"
        yield Process(
            pid=int(entry.pid), name=name, used_bytes=int(used) if used is not None else None
        )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@dataclass(frozen=True, kw_only=True)
class FakeCard:
    """A GPU for `FakeNvml`."""

    name: str
    total: int
    used: int = 0
    capability: tuple[int, int] = (8, 0)
    processes: tuple[tuple[int, str, int | None], ...] = ()
    """(pid, name, bytes)."""
    uuid: str = ""


@dataclass(frozen=True, kw_only=True)
class FakeNvml:
    """NVML with the cards it is given, or one that does not start."""

    cards: tuple[FakeCard, ...] = ()
    failure: str | None = None

    def nvmlInit(self) -> None:  # noqa: N802, D102
        if self.failure is not None:
            raise RuntimeError(self.failure)

    def nvmlShutdown(self) -> None:  # noqa: N802, D102
        return

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802, D102
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:  # noqa: N802, D102
        return self.cards[index]

    def nvmlDeviceGetName(self, handle: FakeCard) -> bytes:  # noqa: N802, D102
        return handle.name.encode()

    def nvmlDeviceGetMemoryInfo(self, handle: FakeCard) -> Any:  # noqa: N802, D102
        return _Memory(total=handle.total, used=handle.used, free=handle.total - handle.used)

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeCard) -> tuple[int, int]:  # noqa: N802, D102
        return handle.capability

    def nvmlDeviceGetUUID(self, handle: FakeCard) -> str:  # noqa: N802, D102
        return handle.uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeCard) -> list[Any]:  # noqa: N802, D102
        return [_Running(pid=pid, usedGpuMemory=used) for pid, _, used in handle.processes]

    def nvmlSystemGetProcessName(self, pid: int) -> str:  # noqa: N802, D102
        names = {known: name for card in self.cards for known, name, _ in card.processes}
        return names[pid]


@dataclass(frozen=True, kw_only=True)
class _Memory:
    total: int
    used: int
    free: int


@dataclass(frozen=True, kw_only=True)
class _Running:
    pid: int
    usedGpuMemory: int | None  # noqa: N815 - NVML's own name
