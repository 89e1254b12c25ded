"""Agreement: the estimate of the user's own scenario beside the numbers of the message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from willfit.doctor.agreement.held import Held, held_of
from willfit.doctor.agreement.longer import LargerBatch, batch_of_factor, larger_batch, longer_rows
from willfit.doctor.agreement.suspects import Suspect, allocated_peak, suspects
from willfit.doctor.amounts import amount
from willfit.doctor.report import Report
from willfit.doctor.sizes.factors import Factor
from willfit.doctor.sizes.work import work_of
from willfit.estimator.evaluator import Evaluator
from willfit.results import Estimate, GpuEstimate
from willfit.scenario import Scenario
from willfit.units import MIB

TOLERANCE: Final = 0.05
"""Part of an estimate by which it may be short without anything being wrong: the 95th percentile of
the formulas' error on scenarios measured on an H200 is half of it (docs/measured-h200.md)."""
LEAST: Final = 256 * MIB
"""A difference below this is not spoken of."""
A_COPY: Final = 0.15
"""How near to the weights a difference has to be to look like a second copy of them."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How an estimate and a message go together."""

    estimate: Estimate
    gpu: GpuEstimate
    """The estimate of the GPU that failed."""
    held: Held
    unexplained_bytes: int
    """Live tensors, with what was asked for, beyond the high end of the estimate; 0 where the
    estimate explains them."""
    suspects: tuple[Suspect, ...] = ()
    """Settings that would explain it if they were not in effect."""
    batch: LargerBatch | None = None
    """A batch that explains both what was allocated and what was asked for."""
    sentences: tuple[str, ...] = ()
    """The comparison in words."""

    @property
    def explained_by(self) -> str:
        """Cause that it is if a larger batch explains it; "" otherwise."""
        return "activations_batch_seq" if self.batch is not None else ""

    @property
    def agrees(self) -> bool:
        """Whether the scenario alone explains the message."""
        return not self.unexplained_bytes


def agreement_of(
    report: Report, estimate: Estimate, factors: Sequence[Factor] = ()
) -> Agreement | None:
    """None where the message does not tell what was allocated.

    ``factors``: what the asked-for size can be.
    """
    held = held_of(report)
    if held is None:
        return None
    index = int(report.fields.get("gpu", 0))
    gpu = estimate.gpus[index] if index < len(estimate.gpus) else estimate.binding
    over = held.needed_bytes - _high(gpu)
    wrong = over > max(LEAST, TOLERANCE * held.needed_bytes)
    if not wrong:
        shown = tuple(_explained(gpu, held))
        return Agreement(
            estimate=estimate, gpu=gpu, held=held, unexplained_bytes=0, sentences=shown
        )
    tried = _Tried(report=report, scenario=estimate.scenario, gpu=gpu, held=held)
    found, batch = tuple(tried.suspects()), tried.batch(factors)
    unexplained = held.needed_bytes - gpu.peak.allocated_bytes
    return Agreement(
        estimate=estimate,
        gpu=gpu,
        held=held,
        unexplained_bytes=unexplained,
        suspects=found,
        batch=batch,
        sentences=(
            *_unexplained(estimate, gpu, held),
            *(
                f"it would be explained if {one.text}: {amount(one.allocated_bytes)}"
                for one in found
            ),
            *tried.larger(alone=batch is None),
            *([_said_of_batch(batch, held)] if batch is not None else []),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """Other settings of a scenario, held against a message; loading is computed once for all."""

    report: Report
    scenario: Scenario
    gpu: GpuEstimate
    held: Held
    evaluator: Evaluator = field(default_factory=Evaluator)

    def suspects(self) -> Iterator[Suspect]:
        """Those that would have failed when the run did: what cannot even load fails before."""
        loaded = self.report.context.stage not in ("load", "unknown")
        needed, total = self.held.needed_bytes, self.held.total_bytes
        for suspect in suspects(self.scenario, self.gpu.index, needed, self.evaluator):
            fails_before = suspect.loaded_bytes > (total or suspect.loaded_bytes)
            if not (loaded and fails_before):
                yield suspect

    def batch(self, factors: Sequence[Factor]) -> LargerBatch | None:
        """The batch that explains both the size of the tensor and what was allocated."""
        needed = self.held.needed_bytes
        found = (
            batch_of_factor(self.scenario, self.gpu.index, needed, factor, self.evaluator)
            for factor in factors
            if not factor.own
        )
        return next((batch for batch in found if batch is not None), None)

    def larger(self, *, alone: bool) -> Iterator[str]:
        """The length, and the batch unless that is said already, that would explain it alone."""
        work = work_of(self.scenario)
        if work is None:
            return
        rows = longer_rows(self.scenario, work, self._suffices)
        if rows is not None:
            yield f"or by rows of {rows:,} tokens rather than {work.seq_len:,}"
        batch = larger_batch(self.scenario, work, self._suffices) if alone else None
        if batch is not None:
            yield f"or by a batch of {batch:,} rather than {work.batch:,}"

    def _suffices(self, scenario: Scenario) -> bool:
        peak = allocated_peak(scenario, self.gpu.index, self.evaluator)
        return peak is not None and peak >= self.held.needed_bytes


def _high(gpu: GpuEstimate) -> int:
    """Allocated bytes if every unknown takes its largest effect."""
    return gpu.peak.allocated_bytes + gpu.high_device_bytes - gpu.peak.device_bytes


def _shown(held: Held) -> str:
    asked = f" and {amount(held.tried_bytes)} asked for" if held.tried_bytes else ""
    return f"{amount(held.allocated_bytes)} allocated{asked}"


_WEIGHTS: Final = ("weights", "quantization_state")


def _unexplained(estimate: Estimate, gpu: GpuEstimate, held: Held) -> Iterator[str]:
    peak = gpu.peak
    unexplained = held.needed_bytes - peak.allocated_bytes
    yield (
        f"these settings need {amount(peak.allocated_bytes)} of tensors in {peak.name} by the "
        f"{estimate.level}, and the message shows {_shown(held)}: {amount(unexplained)} more than "
        "they explain"
    )
    weights = sum(p.num_bytes for p in peak.components if p.name in _WEIGHTS)
    if weights and abs(unexplained - weights) <= A_COPY * weights:
        yield f"that is about one more copy of its weights ({amount(weights)}): an earlier model"


def _explained(gpu: GpuEstimate, held: Held) -> Iterator[str]:
    peak, total = gpu.peak, held.total_bytes
    said = f"these settings need {amount(peak.device_bytes)} of the device in {peak.name}"
    if total is not None and peak.device_bytes > total:
        yield f"{said}, {amount(peak.device_bytes - total)} more than the {amount(total)} there are"
        yield f"the message ends on the way there: {_shown(held)}"
        return
    if held.needed_bytes > peak.allocated_bytes:
        said += f" and, with what is not known, {amount(gpu.high_device_bytes)}"
    within = held.needed_bytes <= _high(gpu)
    agreed = "within that range" if within else "a little more, within its error"
    yield f"{said}; the message shows {_shown(held)}: {agreed}"


def _said_of_suspect(suspect: Suspect) -> str:
    return f"it would be explained if {suspect.text}: {amount(suspect.allocated_bytes)}"


def _said_of_batch(batch: LargerBatch, held: Held) -> str:
    return (
        f"a batch of {batch.rows} explains both: {amount(held.tried_bytes)} is {batch.tokens}, and "
        "the tensors then come to what is shown (per_device_train_batch_size is 8 where it is not "
        "given)"
    )
