"""Watched: what a block allocated, how high it went and what it left behind, device by device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.live.memory.holders import Holder
from willfit.units import format_bytes

MOST_SHOWN: Final = 8
"""Holders in the text; `Watched.holders` has all."""


@dataclass(frozen=True, kw_only=True)
class WatchedDevice:
    """One device around a block."""

    device: str
    """``cuda:0``; ``cpu`` for host memory."""
    name: str = ""
    before_bytes: int
    """In live tensors when the block began."""
    after_bytes: int
    peak_bytes: int
    """Highest within the block, what was there before included."""
    allocated_bytes: int
    """Sum of all that was allocated in the block, freed or not."""
    reserved_before_bytes: int = 0
    """Taken from the device by torch's caching allocator; 0 for the CPU, as the next two."""
    reserved_after_bytes: int = 0
    reserved_peak_bytes: int = 0
    used_before_bytes: int | None = None
    """In use on the device by all processes, as NVML says; None where it does not answer."""
    used_after_bytes: int | None = None
    overall_peak_bytes: int = 0
    """What ``torch.cuda.max_memory_allocated()`` would say, had the block not begun it anew."""

    @property
    def left_behind_bytes(self) -> int:
        """More in live tensors than before; negative where the block freed older ones."""
        return self.after_bytes - self.before_bytes

    @property
    def rise_bytes(self) -> int:
        """From the beginning to the peak."""
        return self.peak_bytes - self.before_bytes

    def text(self) -> str:
        """One line."""
        name = f" ({self.name})" if self.name else ""
        return (
            f"{self.device}{name}: allocated {format_bytes(self.allocated_bytes)}, "
            f"peak {format_bytes(self.peak_bytes)} ({format_bytes(self.rise_bytes)} over "
            f"the {format_bytes(self.before_bytes)} before), "
            f"left behind {format_bytes(self.left_behind_bytes)}"
        )


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a block did."""

    label: str = ""
    devices: tuple[WatchedDevice, ...]
    """Every GPU that is in use, else the CPU."""
    holders: tuple[Holder, ...]
    """Who keeps what the block left behind, those with the most bytes first."""
    left_behind_bytes: int
    """In tensors that were made in the block and live on, on the devices above."""
    error: str = ""
    """Name of the exception that ended the block."""
    notes: tuple[str, ...] = ()
    """What the numbers do not contain."""
    seconds: float
    """Of the block alone."""

    @property
    def mark(self) -> Mapping[str, int]:
        """Bytes in use on each GPU before the block, for `willfit.release`."""
        return {
            device.device: device.used_before_bytes
            for device in self.devices
            if device.used_before_bytes is not None
        }

    def text(self) -> str:
        """Lines for people."""
        return "\n".join(self._lines())

    __str__ = text

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """How IPython shows it."""
        printer.text(self.text())

    def _lines(self) -> Iterator[str]:
        label = f" {self.label}" if self.label else ""
        ended = f", ended by {self.error}" if self.error else ""
        yield f"watched{label}: {self.seconds:.1f} s{ended}"
        yield from (f"  {device.text()}" for device in self.devices)
        for holder in self.holders[:MOST_SHOWN]:
            yield f"    {format_bytes(holder.num_bytes):>10}  kept by {holder.path}"
        if len(self.holders) > MOST_SHOWN:
            yield f"    … and {len(self.holders) - MOST_SHOWN} more in .holders"
        yield from (f"  note: {note}" for note in self.notes)
