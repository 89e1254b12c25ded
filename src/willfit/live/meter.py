"""Meter: reads what a run takes between its phases, on every GPU or, without one, on the host."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from willfit.errors import InputError
from willfit.live.measurement import Alive, MeasuredGpu, Reading
from willfit.live.nvml import LiveGpu, Nvml, live_gpus

if TYPE_CHECKING:
    from willfit.live.memory.cards import Card
    from willfit.live.memory.counters import Counters
    from willfit.live.memory.host_meter import HostMeter


class Meter:
    """Readings of one run.

    On CUDA torch's counters and NVML of every GPU. Without, the bytes of all live tensors of this
    process, counted operator by operator, and its resident memory.
    """

    def __init__(
        self, device: str, *, counters: Counters | None = None, nvml: Nvml | None = None
    ) -> None:
        """``device``: ``cuda`` or ``cpu``; the others stand in for a GPU where there is none."""
        self.device = device
        self.cuda = device.startswith("cuda")
        self.readings: list[Reading] = []
        self.alive: list[Alive] = []
        self._idle: list[LiveGpu] = []
        self._nvml = nvml
        self._counters = counters
        self._host: HostMeter | None = None

    def start(self) -> int:
        """Forget what ran before; returns what is still allocated."""
        gc.collect()
        if not self.cuda:
            return self._start_host()
        self._idle = [] if _has_context() else _live(self._nvml)
        if self._counters is None:
            from willfit.live.memory.counters import TorchCounters

            _init()
            self._counters = TorchCounters()
        self._counters.give_back()
        self._counters.begin_peak()
        return max((one.allocated_bytes for one in self._counters.read()), default=0)

    def _start_host(self) -> int:
        from willfit.live.memory.host_meter import HostMeter

        self._host = HostMeter("cpu").__enter__()
        return 0

    def stop(self) -> None:
        """What is to be read is read: without CUDA the counting of every operator ends here."""
        if self._host is not None:
            self._host.__exit__(None, None, None)
            self._host = None

    def mark(self, phase: str, step: int = 0) -> None:
        """End of a phase: read, and let the next one's peak begin."""
        if self.cuda:
            self._mark_gpus(phase, step)
        elif self._host is not None:
            self._mark_host(self._host, phase, step)

    def _mark_gpus(self, phase: str, step: int) -> None:
        assert self._counters is not None
        self.wait()
        resident = resident_bytes()
        self.readings += [_reading(card, phase, step, resident) for card in self._cards()]
        self._counters.begin_peak()

    def _mark_host(self, host: HostMeter, phase: str, step: int) -> None:
        host.look_around()
        held = host.live_bytes - host.before_bytes
        self.readings.append(
            Reading(
                phase=phase,
                step=step,
                allocated_bytes=host.restart_peak() - host.before_bytes,
                reserved_bytes=0,
                held_bytes=held,
                held_reserved_bytes=0,
                process_bytes=None,
                device_bytes=None,
                host_bytes=resident_bytes(),
            )
        )

    def gpus(self) -> tuple[MeasuredGpu, ...]:
        """The GPUs that are read, with what was in use on them before this process came."""
        if not self.cuda:
            return ()
        return tuple(self._gpu(card) for card in self._cards())

    def _gpu(self, card: Card) -> MeasuredGpu:
        import torch

        index = card.counted.index
        facts: Any = torch.cuda.get_device_properties(index)
        idle = [one.used_bytes for one in self._idle if card.live and one.uuid == card.live.uuid]
        return MeasuredGpu(
            index=index,
            name=card.counted.name,
            capacity_bytes=int(facts.total_memory),
            compute_capability=(int(facts.major), int(facts.minor)),
            idle_bytes=idle[0] if idle else None,
        )

    def wait(self) -> None:
        """Until every device is done."""
        if self.cuda:
            import torch

            for index in range(torch.cuda.device_count()):
                torch.cuda.synchronize(index)

    def allocated_and_reserved(self) -> tuple[int, int]:
        """What is allocated and reserved right now, on the GPU that has most."""
        found = self._counters.read() if self._counters is not None else ()
        amounts = [(one.allocated_bytes, one.reserved_bytes) for one in found]
        return max(amounts, default=(0, 0))

    @contextmanager
    def history(self) -> Iterator[None]:
        """Keep every allocation inside with its line of code; `alive` then has the peak's."""
        from willfit.live.measured.history import history

        with history(self.alive) if self.cuda else nullcontext():
            yield

    def _cards(self) -> tuple[Card, ...]:
        from willfit.live.memory.cards import cards

        assert self._counters is not None
        return cards(self._counters, self._nvml)


def _reading(card: Card, phase: str, step: int, resident: int) -> Reading:
    counted = card.counted
    return Reading(
        phase=phase,
        step=step,
        gpu_index=counted.index,
        allocated_bytes=counted.peak_allocated_bytes,
        reserved_bytes=counted.peak_reserved_bytes,
        held_bytes=counted.allocated_bytes,
        held_reserved_bytes=counted.reserved_bytes,
        process_bytes=card.own_bytes,
        device_bytes=card.used_bytes,
        host_bytes=resident,
    )


def _init() -> None:
    import torch

    torch.cuda.init()  # type: ignore[no-untyped-call]


def _has_context() -> bool:
    """Whether this process is on some GPU already, so that what is in use there is its own, too."""
    import torch

    has: Any = getattr(torch._C, "_cuda_hasPrimaryContext", None)
    if has is None or not torch.cuda.is_available():
        return False
    return any(has(index) for index in range(torch.cuda.device_count()))


def _live(nvml: Nvml | None) -> list[LiveGpu]:
    """The GPUs by NVML; none where it does not answer: torch's counters remain."""
    try:
        return live_gpus(nvml)
    except InputError:
        return []


def resident_bytes() -> int:
    """Resident memory of this process (Linux; 0 where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
