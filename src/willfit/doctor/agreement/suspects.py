"""Suspects: settings that may not be in effect, each tried by an estimate without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from willfit.changes.edit import with_inference, with_loading, with_training
from willfit.dtypes import FLOAT32
from willfit.errors import WillfitError
from willfit.estimator.evaluator import Evaluator
from willfit.formulas.training.settings import checkpointing_of
from willfit.scenario import Scenario

Variant = Callable[[Scenario], "Scenario | None"]
"""The scenario as if a setting did nothing; None where it has no such setting."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A setting that, if it were not in effect, would explain the message."""

    id: str
    text: str
    """What would then be so: ``int8 is not in effect``."""
    check: str
    """A line of code that tells."""
    allocated_bytes: int
    """Peak of live tensors if so."""
    loaded_bytes: int
    """Of it while loading."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    id: str
    text: str
    check: str
    variant: Variant


def _unquantized(scenario: Scenario) -> Scenario | None:
    if scenario.workload.loading.quantization is None:
        return None
    return with_loading(scenario, quantization=None)


def _unchecked(scenario: Scenario) -> Scenario | None:
    training = scenario.workload.training
    if training is None or not checkpointing_of(training):
        return None
    return with_training(scenario, gradient_checkpointing=False)


def _float32(scenario: Scenario) -> Scenario | None:
    loading = scenario.workload.loading
    if loading.quantization is not None or loading.dtype == FLOAT32:
        return None
    return with_loading(scenario, dtype=FLOAT32)


def _eager(scenario: Scenario) -> Scenario | None:
    workload = scenario.workload
    if workload.training is not None and workload.training.attn != "eager":
        return with_training(scenario, attn="eager")
    if workload.inference is not None and workload.inference.attn != "eager":
        return with_inference(scenario, attn="eager")
    return None


_ROWS: Final = (
    _Row(
        id="quantization",
        text="the quantisation is not in effect",
        check="print(model.get_memory_footprint() / 2**30, model.config.quantization_config)",
        variant=_unquantized,
    ),
    _Row(
        id="checkpointing",
        text="layers are not computed again in backward (model.eval(), or switched on elsewhere)",
        check="print(model.is_gradient_checkpointing, model.training)",
        variant=_unchecked,
    ),
    _Row(
        id="dtype",
        text="the weights are loaded in float32",
        check="print(model.dtype, model.get_memory_footprint() / 2**30)",
        variant=_float32,
    ),
    _Row(
        id="attention",
        text="attention is eager: every score of every layer is in memory",
        check="print(model.config._attn_implementation)",
        variant=_eager,
    ),
)


def suspects(
    scenario: Scenario, gpu: int, needed_bytes: int, evaluator: Evaluator
) -> Iterator[Suspect]:
    """Those whose estimate by formula reaches what the message shows."""
    for row in _ROWS:
        variant = row.variant(scenario)
        peaks = _peaks(variant, gpu, evaluator) if variant is not None else {}
        if max(peaks.values(), default=0) >= needed_bytes:
            yield Suspect(
                id=row.id,
                text=row.text,
                check=row.check,
                allocated_bytes=max(peaks.values()),
                loaded_bytes=peaks.get("load", 0),
            )


def allocated_peak(scenario: Scenario, gpu: int, evaluator: Evaluator) -> int | None:
    """Most live tensors on that GPU; None where no number can be given."""
    return max(_peaks(scenario, gpu, evaluator).values(), default=None)


def _peaks(scenario: Scenario, gpu: int, evaluator: Evaluator) -> dict[str, int]:
    """Live tensors of each phase on that GPU; none where no number can be given."""
    try:
        outcome = evaluator.outcome(scenario)
    except WillfitError:
        return {}
    if outcome.refused:
        return {}
    chosen = outcome.gpus[min(gpu, len(outcome.gpus) - 1)]
    return {phase.name: phase.allocated_bytes for phase in chosen.phases}
