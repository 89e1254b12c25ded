"""The range that `estimate` prints, for the amount that a source's counter read."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.ledger.amounts import Amounts
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import Expressed
from willfit.estimator.uncertainty import Counter, Uncertainty, uncertainty, usual
from willfit.results import Level
from willfit.scenario import Scenario


class Printed(NamedTuple):
    """Ends in bytes, and which figures of the ledger widened them."""

    low: int
    high: int
    uncertain: Uncertainty


def counter_of(result: Expressed) -> Counter:
    """Whether a counter has cached memory in it; by its name where a source has its own rule."""
    if isinstance(result.reading, Reading):
        return "allocated" if result.reading.amount == "allocated" else "reserved"
    words = ("reserved", "nvml", "nvidia-smi", "device", "vram")
    return "reserved" if any(word in result.kind.lower() for word in words) else "allocated"


def printed_range(scenario: Scenario, amounts: Amounts, level: Level, counter: Counter) -> Printed:
    """Unknown settings, and on both sides what willfit's numbers are off by."""
    gpu = scenario.machine.gpus[0] if scenario.machine is not None else None
    uncertain = uncertainty(scenario, level, gpu, counter)
    below, above = uncertain.ends(amounts.nominal)
    return Printed(amounts.low - below, amounts.high + above, uncertain)


def kernel_range(amounts: Amounts, level: Level) -> tuple[int, int]:
    """Of a single kernel, which no estimate is printed for: a training step's uncertainty."""
    below, above = usual(level, "training").ends(amounts.nominal)
    return amounts.low - below, amounts.high + above
