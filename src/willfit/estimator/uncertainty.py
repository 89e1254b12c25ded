"""What willfit's own numbers are off by: the part of `range` that no setting decides.

The parts are figures of the accuracy ledger (docs/accuracy.md): so far lie published measurements
below and above the estimates of the same kind of work at the same level. They are made by
``python -m benchmarks.ledger --ranges`` and hold 95 % of the rows of sources left out in turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Literal

from willfit.dtypes import BFLOAT16
from willfit.estimator.alone import alone_of
from willfit.results import Level
from willfit.scenario import Scenario
from willfit.scenario.machine import Gpu

Work = Literal["loading", "inference", "training", "several", "gptq_several"]
"""What the parts are kept by; ``several`` is any work on more than one GPU, but for checkpoints of
GPTQ in 4 bit, whose published figures are 19 to 37 % above what explains all others."""
_GPTQ: Final = (
    "range wider than usual: GPTQ in 4 bit over several GPUs took 19 to 37 % more than its layers "
    "in the four measurements that there are, for a reason not known"
)
Counter = Literal["allocated", "reserved"]
"""Live tensors; or with what the allocator holds besides, as ``nvidia-smi`` shows it too."""
_VERDICTS: Final[dict[str, Counter]] = {"formula": "allocated", "trace": "reserved"}
"""By what a level's `range` is widened: cached memory is given back before a run fails, and only a
trace knows how much of it cannot be (docs/decisions/0004)."""
_BFLOAT16_SINCE: Final = 80
"""Compute capability from which bfloat16 has kernels of its own (CUDA programming guide, 16.4)."""


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """How far a measurement may lie from an estimate, as parts of its tensors."""

    work: Work
    below: float
    above: float
    wider: float = 1
    """By which both are more than what was measured."""
    unseen: tuple[str, ...] = ()
    """What no measurement covers, for which both are widened."""

    def ends(self, num_bytes: int) -> tuple[int, int]:
        """Bytes to take off and to add: ``(42, 58)``."""
        return round(num_bytes * self.below), round(num_bytes * self.above)


def uncertainty(
    scenario: Scenario, level: Level, gpu: Gpu | None, counter: Counter | None = None
) -> Uncertainty:
    """Of a scenario on one of its GPUs; of its verdict's counter if none is named."""
    return _uncertainty(
        level,
        counter or _VERDICTS.get(level, "allocated"),
        _work(scenario),
        gpu.sm if gpu is not None else 0,
        gpu.vendor if gpu is not None else "nvidia",
        bfloat16=_computes_in_bfloat16(alone_of(scenario)),
    )


def _work(scenario: Scenario) -> Work:
    if scenario.num_gpus > 1:
        stored = scenario.model.quantization
        gptq = stored is not None and stored.method == "gptq" and stored.bits == 4
        return "gptq_several" if gptq else "several"
    if scenario.workload.training is not None:
        return "training"
    return "inference" if scenario.workload.inference is not None else "loading"


def _computes_in_bfloat16(alone: Scenario) -> bool:
    loading, training = alone.workload.loading, alone.workload.training
    dtype = loading.dtype or alone.model.stored_dtype
    packed = loading.quantization.compute_dtype if loading.quantization is not None else None
    autocasts = training is not None and bool(training.bf16)
    return autocasts or BFLOAT16 in (dtype, packed)


def wider_range(scenario: Scenario, level: Level) -> list[str]:
    """What the reader is told where no measurement covers a card or its kernels."""
    gpus = scenario.machine.gpus if scenario.machine is not None else ()
    unseen = dict.fromkeys(u for gpu in gpus for u in uncertainty(scenario, level, gpu).unseen)
    said = [f"range wider than usual: no measurement covers {what}" for what in unseen]
    return [*said, _GPTQ] if _work(scenario) == "gptq_several" else said


def usual(level: Level, work: Work, counter: Counter | None = None) -> Uncertainty:
    """Of a kind of work on kernels that were measured; of the verdict's counter by default."""
    return _uncertainty(
        level, counter or _VERDICTS.get(level, "allocated"), work, 0, "nvidia", bfloat16=False
    )


@lru_cache(maxsize=512)
def _uncertainty(
    level: Level, counter: Counter, work: Work, sm: int, vendor: str, *, bfloat16: bool
) -> Uncertainty:
    data = _data()
    below, above = data["parts"]["trace" if level == "trace" else "formula"][counter][work]
    unseen = tuple(_unseen(data["seen_sm"], sm, vendor, bfloat16))
    wider = data["unseen_factor"] if unseen else 1
    return Uncertainty(
        work=work, below=below * wider, above=above * wider, wider=wider, unseen=unseen
    )


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
