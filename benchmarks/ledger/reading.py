"""Which amount of an estimate a published counter is compared with, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.ledger.moments import Moment
from willfit.errors import UnsupportedError
from willfit.results import Estimate, GpuEstimate, PhaseEstimate

Amount = Literal["allocated", "reserved", "device"]
"""torch's live blocks; the segments that the caching allocator holds; those plus the context."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A counter: what it counts, over which phases, on which GPUs.

    ``Reading(amount="reserved", phases=("prefill", "decode"))`` is the reserved peak of a
    generation whose counters were reset after loading, on the GPU that is fullest.
    """

    amount: Amount = "allocated"
    phases: tuple[str, ...] = ()
    """Phases in the counter's window; () is the whole run, loading included."""
    without: tuple[str, ...] = ()
    """Phases outside of it, where naming those is shorter: ``("load",)`` after a reset."""
    gpus: Literal["fullest", "sum"] | int = "fullest"
    """Largest over the GPUs, the sum of their peaks, or one GPU by its index."""
    components: tuple[str, ...] = ()
    """Components of the phase that alone are counted (no rounding then); () is all of it."""
    plus_bytes: int = 0
    """What the source's counter held besides, where the source says how much: its own context."""
    moment: Moment | None = None
    """Moment at which the counter was read, of the binding GPU; None where it is a peak."""
    ends: tuple[int, ...] = (0,)
    """At ``end_of_step`` by trace: which emptyings of the cache, from 0, it is the mean of."""

    def __call__(self, estimate: Estimate) -> int:
        """Bytes; raises `UnsupportedError` where the estimate has none of the phases."""
        if isinstance(self.gpus, int):
            return self._of(estimate.gpus[self.gpus])
        amounts = [self._of(gpu) for gpu in estimate.gpus]
        return sum(amounts) if self.gpus == "sum" else max(amounts)

    def _of(self, gpu: GpuEstimate) -> int:
        phases = [phase for phase in gpu.phases if self._is_inside(phase)]
        if not phases:
            names = ", ".join(phase.name for phase in gpu.phases)
            raise UnsupportedError(f"none of the counter's phases is estimated (there: {names})")
        return max(map(self._amount, phases)) + self.plus_bytes

    def _is_inside(self, phase: PhaseEstimate) -> bool:
        return phase.name not in self.without and (not self.phases or phase.name in self.phases)

    def _amount(self, phase: PhaseEstimate) -> int:
        if self.components:
            return sum(p.num_bytes for p in phase.components if p.name in self.components)
        return int(getattr(phase, _FIELDS[self.amount]))


_FIELDS: Final[dict[Amount, str]] = {
    "allocated": "allocated_bytes",
    "reserved": "reserved_bytes",
    "device": "device_bytes",
}
