"""A GPU where there is none: torch's and NVML's lowest functions over this process's own tensors."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from willfit.live.memory.host_meter import HostMeter
from willfit.units import GIB, MIB, round_up

SEGMENT = 2 * MIB
"""What the caching allocator takes from the device at a time, and gives back when it is asked."""
IDLE, CONTEXT, CAPACITY = 600 * MIB, 500 * MIB, 15 * GIB
Tells = Literal["all", "no processes", "the host's ids", "no amounts", "nothing"]


@dataclass(kw_only=True)
class Device:
    """One GPU: live tensors are allocated, their peak is reserved, and a context comes on top.

    As on a real one the context is there from the first work on it, not from being asked for.
    """

    tells: Tells = "all"
    """What NVML says: in containers and on virtual GPUs, less."""
    context: bool = False
    segments: int = 0
    recording: bool = False
    when_recording: int = 0
    """Allocated when the history began."""
    events: list[dict[str, Any]] = field(default_factory=list)
    host: HostMeter = field(init=False)

    def __post_init__(self) -> None:
        self.host = HostMeter("cpu", observer=self)

    def made(self, key: int, num_bytes: int, _: Sequence[int]) -> None:
        """The allocator's event."""
        if self.recording:
            self.events.append({"action": "alloc", "addr": key, "size": num_bytes})

    def freed(self, key: int, num_bytes: int) -> None:
        """The allocator's event."""
        if self.recording:
            self.events.append({"action": "free_requested", "addr": key, "size": num_bytes})

    @property
    def allocated(self) -> int:
        return self.host.live_bytes - self.host.before_bytes

    @property
    def peak(self) -> int:
        return self.host.peak_bytes - self.host.before_bytes

    @property
    def reserved(self) -> int:
        self.segments = max(self.segments, round_up(self.peak, SEGMENT))
        return self.segments

    @property
    def own(self) -> int:
        """What the process has on it."""
        return CONTEXT + self.reserved if self.context else 0

    def work(self, *_: Any) -> None:
        self.context = True

    def begin_peak(self, *_: Any) -> None:
        self.reserved  # noqa: B018 - what the peak took stays taken
        self.host.restart_peak()

    def empty(self) -> None:
        self.segments = round_up(self.allocated, SEGMENT)

    def record(self, enabled: str | None = "all", **_: Any) -> None:
        self.recording = enabled is not None
        if self.recording:
            self.when_recording = self.allocated

    def torch_functions(self) -> dict[str, Any]:
        """Functions of ``torch.cuda``."""
        facts = SimpleNamespace(name="Tesla T4", total_memory=CAPACITY, major=7, minor=5, uuid="u0")
        return {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "init": lambda: None,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "device": lambda _: nullcontext(),
            "get_device_properties": lambda *_: facts,
            "get_device_capability": lambda *_: (7, 5),
            "synchronize": self.work,
            "memory_stats": lambda *_: {"allocated_bytes.all.allocated": self.host.made_bytes},
            "memory_allocated": lambda *_: self.allocated,
            "memory_reserved": lambda *_: self.reserved,
            "max_memory_allocated": lambda *_: self.peak,
            "max_memory_reserved": lambda *_: self.reserved,
            "reset_peak_memory_stats": self.begin_peak,
            "empty_cache": self.empty,
        }

    def nvml(self) -> Any:
        """The module ``pynvml``."""

        def processes(_: Any) -> list[Any]:
            if self.tells == "nothing":
                raise RuntimeError("Not Supported")
            if self.tells == "no processes" or not self.own:
                return []
            pid = os.getpid() if self.tells in ("all", "no amounts") else 2**30
            used = None if self.tells == "no amounts" else self.own
            return [SimpleNamespace(pid=pid, usedGpuMemory=used)]

        def memory(_: Any) -> Any:
            used = IDLE + self.own
            return SimpleNamespace(total=16 * GIB, used=used, free=16 * GIB - used)

        return SimpleNamespace(
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetName=lambda _: "Tesla T4",
            nvmlDeviceGetMemoryInfo=memory,
            nvmlDeviceGetCudaComputeCapability=lambda _: (7, 5),
            nvmlDeviceGetUUID=lambda _: "GPU-u0",
            nvmlDeviceGetComputeRunningProcesses=processes,
            nvmlSystemGetProcessName=lambda _: "python",
            nvmlSystemGetDriverVersion=lambda: "580.1",
        )


@contextmanager
def stand_in(tells: Tells = "all", *, context: bool = False) -> Iterator[Device]:
    """Within, torch and NVML tell of one T4, and models that are to go to it stay on the host."""
    from willfit.live.measured import load_model

    device = Device(tells=tells, context=context)
    real = load_model.load_model
    with pytest.MonkeyPatch.context() as patch:
        for name, function in device.torch_functions().items():
            patch.setattr(torch.cuda, name, function)
        patch.setattr(torch.cuda.memory, "_record_memory_history", device.record)
        traces = {"device_traces": [device.events]}
        patch.setattr(torch.cuda.memory, "_snapshot", lambda: traces)
        patch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
        patch.setattr(torch._C, "_cuda_hasPrimaryContext", lambda _: device.context, raising=False)
        patch.setitem(sys.modules, "pynvml", device.nvml())
        patch.setattr(
            load_model, "load_model", lambda scenario, _, folder=None: real(scenario, "cpu", folder)
        )
        gc.collect()  # what earlier runs in this process left would be freed from under the meter
        with device.host:
            yield device
