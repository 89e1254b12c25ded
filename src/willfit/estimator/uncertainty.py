"""What willfit's own numbers are off by: the part of `range` that no setting decides.

The parts are figures of the accuracy ledger (docs/accuracy.md): so far lie published measurements
below and above the estimates of the same kind of work at the same level. They are made by
``python -m benchmarks.ledger --write`` and hold 95 % of the rows of sources left out in turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Literal

from willfit.results import Level
from willfit.scenario import Scenario
from willfit.scenario.machine import Gpu

Work = Literal["loading", "inference", "training", "several"]
"""What the parts are kept by; ``several`` is any work on more than one GPU."""
_BFLOAT16_SINCE: Final = 80
"""Compute capability from which bfloat16 has kernels of its own (CUDA programming guide, 16.4)."""


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """How far a measurement may lie from an estimate, as parts of its tensors."""

    below: float
    above: float
    unseen: tuple[str, ...] = ()
    """What no measurement covers, for which both are widened."""

    def ends(self, num_bytes: int) -> tuple[int, int]:
        """Bytes to take off and to add: ``(42, 58)``."""
        return round(num_bytes * self.below), round(num_bytes * self.above)


def uncertainty(scenario: Scenario, level: Level, gpu: Gpu | None) -> Uncertainty:
    """Of a scenario on one of its GPUs."""
    work = scenario.workload
    num_gpus = len(scenario.machine.gpus) if scenario.machine is not None else 1
    kind: Work = "loading"
    if work.training is not None:
        kind = "training"
    elif work.inference is not None:
        kind = "inference"
    dtype = work.loading.dtype or scenario.model.stored_dtype
    trains_in_bf16 = work.training is not None and bool(work.training.bf16)
    bfloat16 = trains_in_bf16 or (dtype is not None and dtype.name == "bfloat16")
    return _uncertainty(
        level,
        "several" if num_gpus > 1 else kind,
        gpu.sm if gpu is not None else 0,
        gpu.vendor if gpu is not None else "nvidia",
        bfloat16,
    )


def wider_range(scenario: Scenario, level: Level) -> list[str]:
    """What the reader is told where no measurement covers a card or its kernels."""
    gpus = scenario.machine.gpus if scenario.machine is not None else ()
    unseen = dict.fromkeys(u for gpu in gpus for u in uncertainty(scenario, level, gpu).unseen)
    return [f"range wider than usual: no measurement covers {what}" for what in unseen]


@lru_cache(maxsize=512)
def _uncertainty(level: Level, work: Work, sm: int, vendor: str, bfloat16: bool) -> Uncertainty:
    data = _data()
    below, above = data["parts"]["trace" if level == "trace" else "formula"][work]
    unseen = tuple(_unseen(data["seen_sm"], sm, vendor, bfloat16))
    wider = data["unseen_factor"] if unseen else 1
    return Uncertainty(below=below * wider, above=above * wider, unseen=unseen)


def _unseen(seen_sm: list[int], sm: int, vendor: str, bfloat16: bool) -> list[str]:
    found = []
    if vendor != "nvidia":
        found.append(f"kernels of {vendor}'s devices")
    elif sm and sm not in seen_sm:
        found.append(f"kernels of compute capability {sm // 10}.{sm % 10}")
    if vendor == "nvidia" and sm and sm < _BFLOAT16_SINCE and bfloat16:
        found.append(f"bfloat16 on compute capability {sm // 10}.{sm % 10}, which emulates it")
    return found


@lru_cache
def _data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        files("willfit.data").joinpath("uncertainty.json").read_text()
    )
    return found
