"""The GPUs that a run may use, as NVML sees them; the driver never makes a CUDA context."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from willfit.errors import InputError
from willfit.live.nvml import LiveGpu, Nvml, live_gpus


class GpuProbe(Protocol):
    """What reads the GPUs: one method.

    `NvmlProbe` asks the driver; `ScriptedProbe` tells what it is given, for machines without GPUs::

        ScriptedProbe(lambda reading: [card(used=max(0, 14 - reading) * GiB)])
    """

    def read(self) -> Sequence[LiveGpu]:
        """Every GPU of the machine now, in PCI order; none where there is none."""


@dataclass(frozen=True, kw_only=True)
class NvmlProbe:
    """The GPUs through NVML; a machine without a driver has none."""

    nvml: Nvml | None = None

    def read(self) -> Sequence[LiveGpu]:
        """As NVML says."""
        try:
            return live_gpus(self.nvml)
        except InputError:
            return ()


class ScriptedProbe:
    """GPUs as a script says: a function of how often they were read before."""

    def __init__(self, script: Callable[[int], Sequence[LiveGpu]]) -> None:
        self._script, self._count, self._lock = script, 0, threading.Lock()

    def read(self) -> Sequence[LiveGpu]:
        """The script's next reading."""
        with self._lock:
            count, self._count = self._count, self._count + 1
        return self._script(count)


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What the user lets us see of the machine's GPUs."""

    gpus: Mapping[int, LiveGpu]
    """By the number that a run calls it: its place in ``CUDA_VISIBLE_DEVICES`` if that is set."""
    names: Mapping[int, str]
    """What ``CUDA_VISIBLE_DEVICES`` of a worker is given for each."""
    nvml_index: Mapping[int, int]
    """Each GPU's number in NVML, with which it is read."""
    nodes: Mapping[int, str] = field(default_factory=dict)
    """The node of each in a cluster; empty where all are of this machine."""
    num_nodes: int = 1
    """Machines that workers may run on."""
    host_free_bytes: int | None = None
    """Free memory of the node that has the least; None where it is this machine's."""
    lost: Set[int] = frozenset()
    """Those that went with their node; in a cluster it grows while a run lasts."""

    def node(self, gpus: Sequence[int]) -> str:
        """The node of a replica's GPUs; empty on this machine and on the CPU."""
        return self.nodes.get(gpus[0], "") if gpus else ""


def visible(probe: GpuProbe, environ: Mapping[str, str] = os.environ) -> Devices:
    """The machine's GPUs, less those that ``CUDA_VISIBLE_DEVICES`` hides.

    Integers are kept as integers (names crash some engines); UUIDs and MIG names are handed on
    untouched, and looked up in NVML for the checks.
    """
    found = list(probe.read())
    asked = environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        numbers = range(len(found))
        return Devices(
            gpus=dict(enumerate(found)), names={i: str(i) for i in numbers},
            nvml_index={i: i for i in numbers},
        )  # fmt: skip
    names = [name.strip() for name in asked.split(",") if name.strip()]
    gpus: dict[int, LiveGpu] = {}
    index: dict[int, int] = {}
    for place, name in enumerate(names):
        number = _number(name, found)
        if number is None:  # CUDA itself stops at the first that is not there
            break
        gpus[place], index[place] = found[number], number
    return Devices(gpus=gpus, names=dict(enumerate(names[: len(gpus)])), nvml_index=index)


def _number(name: str, found: Sequence[LiveGpu]) -> int | None:
    if name.isdecimal():
        return int(name) if int(name) < len(found) else None
    for number, gpu in enumerate(found):
        if gpu.uuid and (gpu.uuid.startswith(name) or name.startswith(f"MIG-{gpu.uuid}")):
            return number
    return 0 if name.startswith("MIG-") and len(found) == 1 else None


@dataclass(kw_only=True)
class Sampler:
    """Reads the GPUs every second for as long as a stage runs, and keeps the highest use."""

    probe: GpuProbe
    interval: float = 1.0
    highest: dict[int, int] = field(default_factory=dict)
    """Most bytes in use by NVML number."""

    def __enter__(self) -> Sampler:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="GPU memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            for number, gpu in enumerate(self.probe.read()):
                self.highest[number] = max(self.highest.get(number, 0), gpu.used_bytes)
            if self._stop.wait(max(0.05, self.interval - (time.monotonic() - began))):
                return
