"""Released: what `release` gave back, what is left on every device, and who holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from willfit.live.memory.holders import Holder
from willfit.live.nvml import NEARLY_FREE, TOLERANCE
from willfit.units import format_bytes

MOST_SHOWN: Final = 12
"""Holders in the text; `Released.holders` has all."""


@dataclass(frozen=True, kw_only=True)
class ReleasedDevice:
    """One device before and after."""

    device: str
    """``cuda:1``; ``cpu`` for host memory."""
    name: str = ""
    before_bytes: int
    """In live tensors: all of this process on a GPU, those that were given on the CPU."""
    after_bytes: int
    reserved_before_bytes: int = 0
    """Taken from the device by torch's caching allocator; 0 for the CPU."""
    reserved_after_bytes: int = 0
    used_before_bytes: int | None = None
    """In use by all processes, as NVML says; None where it does not answer."""
    used_after_bytes: int | None = None
    mark_bytes: int | None = None
    """What was in use before the work began, where the caller gave a mark."""

    @property
    def freed_bytes(self) -> int:
        """Given back to the device; on the CPU, to the allocator."""
        if self.device == "cpu":
            return self.before_bytes - self.after_bytes
        return self.reserved_before_bytes - self.reserved_after_bytes

    @property
    def is_free(self) -> bool:
        """No tensor is left, or the device is below 300 MB, or back at its mark.

        A GPU's context cannot be given back while the process lives: 0.1 GiB on a T4 and 0.6 GiB
        on an H200, so what counts there is that torch holds nothing.
        """
        if self.after_bytes == 0:
            return True
        if self.used_after_bytes is None:
            return False
        mark = self.mark_bytes
        return self.used_after_bytes <= max(NEARLY_FREE, mark + TOLERANCE if mark else 0)

    def text(self) -> str:
        """One line."""
        name = f" ({self.name})" if self.name else ""
        line = (
            f"{self.device}{name}: {format_bytes(self.freed_bytes)} freed, "
            f"{format_bytes(self.after_bytes)} left in tensors"
        )
        if self.used_after_bytes is not None:
            beside = max(0, self.used_after_bytes - self.reserved_after_bytes)
            line += (
                f"; {format_bytes(self.used_after_bytes)} in use on the device, of which "
                f"{format_bytes(beside)} are the context, the driver and other processes"
            )
        return line


@dataclass(frozen=True, kw_only=True)
class Released:
    """What became of it."""

    devices: tuple[ReleasedDevice, ...]
    """Every GPU, and the CPU where tensors that were given lie there."""
    given_bytes: int
    """In the tensors of what was given."""
    left_bytes: int
    """Of these, still alive."""
    holders: tuple[Holder, ...]
    """Who keeps the rest, those with the most bytes first; they may share what they keep."""
    others: tuple[Holder, ...] = ()
    """Other processes on the GPUs."""
    cleared: tuple[str, ...]
    """What was let go of, in words."""
    notes: tuple[str, ...] = ()
    """What else was seen on the way, such as a loop that returns in its first round."""
    is_complete: bool = True
    """False where the search for holders stopped early: there may be more."""
    seconds: float
    """Of which the search for holders takes two at most."""

    @property
    def is_gone(self) -> bool:
        """Whether all that was given is really gone."""
        return self.left_bytes == 0

    @property
    def is_free(self) -> bool:
        """Whether every device is free."""
        return self.is_gone and all(device.is_free for device in self.devices)

    @property
    def freed_bytes(self) -> int:
        """On all devices."""
        return sum(device.freed_bytes for device in self.devices)

    def text(self) -> str:
        """Lines for people."""
        return "\n".join(self._lines())

    __str__ = text

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """How IPython shows it."""
        printer.text(self.text())

    def _lines(self) -> Iterator[str]:
        yield from (device.text() for device in self.devices)
        if self.cleared:
            yield f"let go of: {', '.join(self.cleared)}"
        shown = self.holders[:MOST_SHOWN]
        if shown:
            yield f"still held, {format_bytes(self.left_bytes)} of what was given:"
            yield from (f"  {holder.text()}" for holder in shown)
        if len(self.holders) > len(shown):
            yield f"  … and {len(self.holders) - len(shown)} more in .holders"
        if shown and len(self.holders) > 1:
            yield "  (each of them has to let go before the memory they share comes back)"
        if not self.is_complete:
            yield "  (the search stopped early: there may be more)"
        yield from (f"note: {note}" for note in self.notes)
        if self.others:
            yield "other processes:"
            yield from (f"  {holder.text()}" for holder in self.others)
