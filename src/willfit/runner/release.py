"""The release contract: a stage is over when its GPUs' memory is measured back, and not before.

A dead process is not yet free memory: the driver frees it while the process exits, which may be
after its parent has reaped it. What counts is the device's total, since NVML may report process
ids of a host that a container cannot see.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from willfit.errors import GpuNotReleasedError
from willfit.live.nvml import NEARLY_FREE, TOLERANCE, LiveGpu, Process
from willfit.runner.gpus import GpuProbe
from willfit.units import format_bytes

PATIENCE: Final = 60.0
"""Seconds to wait for the memory: SGLang waits as long for its processes."""


@dataclass(frozen=True, kw_only=True)
class GpuRelease:
    """One GPU around a stage, in bytes in use as NVML counts them."""

    index: int
    """NVML's number."""
    name: str
    before_bytes: int
    peak_bytes: int
    after_bytes: int
    holders: tuple[str, ...] = ()
    """Who holds memory on it now, a phrase each."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a stage gave back."""

    gpus: tuple[GpuRelease, ...]
    seconds: float
    """From the end of the last process to the last reading."""

    def line(self) -> str:
        """``GPU 0 14.9 → 0.0 GiB, back in 1.8 s``; empty without GPUs."""
        if not self.gpus:
            return ""
        parts = ", ".join(
            f"GPU {gpu.index} {format_bytes(gpu.peak_bytes)} → {format_bytes(gpu.after_bytes)}"
            for gpu in self.gpus
        )
        return f"{parts}, back in {self.seconds:.1f} s"

    def json(self) -> dict[str, Any]:
        """As ``released.json`` has it."""
        return {
            "seconds": round(self.seconds, 3),
            "gpus": [
                {
                    "index": gpu.index, "name": gpu.name, "before_bytes": gpu.before_bytes,
                    "peak_bytes": gpu.peak_bytes, "after_bytes": gpu.after_bytes,
                    "holders": list(gpu.holders),
                }
                for gpu in self.gpus
            ],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The baseline of every GPU, and when it counts as reached again."""

    probe: GpuProbe
    baseline: Mapping[int, int]
    """Bytes in use before the first stage, by NVML number."""
    tolerance: int = TOLERANCE
    patience: float = PATIENCE
    remedy: str = "end those processes and run the same command again: what is computed is kept"
    """What a refusal tells to do."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def now(cls, probe: GpuProbe, indices: Sequence[int], **limits: Any) -> Contract:
        """With the present use as the baseline."""
        found = probe.read()
        return cls(probe=probe, baseline={i: found[i].used_bytes for i in indices}, **limits)

    def wait(self, indices: Sequence[int], highest: Mapping[int, int]) -> Release:
        """Return once every GPU is back; raises `GpuNotReleasedError` after ``patience`` seconds.

        ``highest``: the most that was in use on each, for the report.
        """
        began, pause = self.clock(), 0.05
        while True:
            found = self.probe.read()
            held = [i for i in indices if not self._is_back(i, found)]
            seconds = self.clock() - began
            if not held:
                return self._release(indices, highest, found, seconds)
            if seconds >= self.patience:
                raise GpuNotReleasedError(self._refusal(held, found, seconds))
            self.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def _is_back(self, index: int, found: Sequence[LiveGpu]) -> bool:
        return (
            index < len(found)
            and found[index].used_bytes <= self.baseline.get(index, 0) + self.tolerance
        )

    def _is_notable(self, index: int, found: Sequence[LiveGpu]) -> bool:
        """Held by somebody: an idle H200 has 615 MiB in use and no process."""
        return found[index].used_bytes > NEARLY_FREE and bool(found[index].processes)

    def _release(
        self, indices: Sequence[int], highest: Mapping[int, int], found: Sequence[LiveGpu],
        seconds: float,
    ) -> Release:  # fmt: skip
        return Release(
            gpus=tuple(
                GpuRelease(
                    index=i,
                    name=found[i].name,
                    before_bytes=self.baseline.get(i, 0),
                    peak_bytes=max(highest.get(i, 0), found[i].used_bytes),
                    after_bytes=found[i].used_bytes,
                    holders=holders(found[i]) if self._is_notable(i, found) else (),
                )
                for i in indices
            ),
            seconds=seconds,
        )

    def _refusal(self, held: Sequence[int], found: Sequence[LiveGpu], seconds: float) -> str:
        parts = []
        for i in held:
            if i >= len(found):
                parts.append(f"GPU {i} does not answer any more")
                continue
            named = "; ".join(holders(found[i]))
            before = format_bytes(self.baseline.get(i, 0))
            used = format_bytes(found[i].used_bytes)
            parts.append(f"GPU {i} has {used} in use ({before} before the run), held by {named}")
        return (
            f"memory did not come back within {seconds:.0f} s of the last process's end: "
            f"{', '.join(parts)}; {self.remedy}"
        )


def holders(gpu: LiveGpu) -> tuple[str, ...]:
    """Who holds memory on a GPU, a phrase each; says so where no process can be seen."""
    named = tuple(_phrase(process) for process in gpu.processes)
    return named or ("no process that can be seen from here (another container, or the driver)",)


def _phrase(process: Process) -> str:
    amount = f" ({format_bytes(process.used_bytes)})" if process.used_bytes else ""
    if process.pid == os.getpid():
        return f"this very process{amount}"
    return f"process {process.pid} {process.name}{amount}"
