"""Which figures of the ledger widen the range around an amount that a source's counter read."""

from __future__ import annotations

from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import Expressed
from willfit.estimator.uncertainty import Counter, Uncertainty, uncertainty
from willfit.results import Level


def counter_of(result: Expressed) -> Counter:
    """Whether a counter has cached memory in it; by its name where a source has its own rule."""
    if isinstance(result.reading, Reading):
        return "allocated" if result.reading.amount == "allocated" else "reserved"
    words = ("reserved", "nvml", "nvidia-smi", "device", "vram")
    return "reserved" if any(word in result.kind.lower() for word in words) else "allocated"


def uncertainty_of(result: Expressed, level: Level) -> Uncertainty:
    """Of its kind of work, on its card."""
    machine = result.scenario.machine
    gpu = machine.gpus[0] if machine is not None else None
    return uncertainty(result.scenario, level, gpu, counter_of(result))
