"""Agreement: the estimate of the user's own scenario beside the numbers of the message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from willfit.doctor.agreement.held import Held, held_of
from willfit.doctor.agreement.longer import LargerBatch, batch_of_factor, larger_batch, longer_rows
from willfit.doctor.agreement.suspects import Suspect, suspects
from willfit.doctor.report import Report
from willfit.doctor.sizes import asked_of, factors_of
from willfit.doctor.sizes.work import work_of
from willfit.results import Estimate, GpuEstimate
from willfit.scenario import Scenario
from willfit.units import GIB, MIB

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


def agreement_of(report: Report, estimate: Estimate) -> Agreement | None:
    """None where the message does not tell what was allocated."""
    held = held_of(report)
    if held is None:
        return None
    index = int(report.fields.get("gpu", 0))
    gpu = estimate.gpus[index] if index < len(estimate.gpus) else estimate.binding
    over = held.needed_bytes - _high(gpu)
    wrong = over > max(LEAST, TOLERANCE * held.needed_bytes)
    unexplained = held.needed_bytes - gpu.peak.allocated_bytes if wrong else 0
    found = tuple(_suspects(report, estimate.scenario, gpu, held)) if wrong else ()
    both = _batch_of_both(report, estimate.scenario, gpu, held) if wrong else None
    return Agreement(
        estimate=estimate,
        gpu=gpu,
        held=held,
        unexplained_bytes=unexplained,
        suspects=found,
        batch=both,
        sentences=tuple(_sentences(estimate, gpu, held, unexplained, found, both)),
    )


def _suspects(
    report: Report, scenario: Scenario, gpu: GpuEstimate, held: Held
) -> Iterator[Suspect]:
    """Those that would have failed when the run did: what cannot even load fails before."""
    loaded = report.context.stage not in ("load", "unknown")
    for suspect in suspects(scenario, gpu.index, held.needed_bytes):
        fails_before = suspect.loaded_bytes > (held.total_bytes or suspect.loaded_bytes)
        if not (loaded and fails_before):
            yield suspect


def _high(gpu: GpuEstimate) -> int:
    """Allocated bytes if every unknown takes its largest effect."""
    return gpu.peak.allocated_bytes + gpu.high_device_bytes - gpu.peak.device_bytes


def _sentences(
    estimate: Estimate,
    gpu: GpuEstimate,
    held: Held,
    unexplained: int,
    found: tuple[Suspect, ...],
    batch: LargerBatch | None,
) -> Iterator[str]:
    peak, asked = gpu.peak, held.tried_bytes
    shown = f"{gib(held.allocated_bytes)} allocated" + (
        f" and {gib(asked)} asked for" if asked else ""
    )
    if not unexplained:
        yield from _explained(gpu, held, shown)
        return
    yield (
        f"these settings need {gib(peak.allocated_bytes)} of tensors in {peak.name} by the "
        f"{estimate.level}, and the message shows {shown}: {gib(unexplained)} more than they "
        "explain"
    )
    weights = sum(p.num_bytes for p in peak.components if p.name in _WEIGHTS)
    if weights and abs(unexplained - weights) <= A_COPY * weights:
        yield f"that is about one more copy of its weights ({gib(weights)}): an earlier model"
    for suspect in found:
        yield f"it would be explained if {suspect.text}: {gib(suspect.allocated_bytes)}"
    yield from _larger(estimate, gpu, held, alone=batch is None)
    if batch is not None:
        yield _said_of_batch(batch, held)


_WEIGHTS: Final = ("weights", "quantization_state")


def _explained(gpu: GpuEstimate, held: Held, shown: str) -> Iterator[str]:
    peak, total = gpu.peak, held.total_bytes
    said = f"these settings need {gib(peak.device_bytes)} of the device in {peak.name}"
    if total is not None and peak.device_bytes > total:
        yield f"{said}, {gib(peak.device_bytes - total)} more than the {gib(total)} there are"
        yield f"the message ends on the way there: {shown}"
        return
    high = _high(gpu)
    if held.needed_bytes > peak.allocated_bytes:
        said += f" and, with what is not known, {gib(gpu.high_device_bytes)}"
    agreed = "within that range" if held.needed_bytes <= high else "a little more, within its error"
    yield f"{said}; the message shows {shown}: {agreed}"


def _batch_of_both(
    report: Report, scenario: Scenario, gpu: GpuEstimate, held: Held
) -> LargerBatch | None:
    """The batch that explains both the size of the tensor and what was allocated."""
    asked = asked_of(report)
    if asked is None:
        return None
    factors = (factor for factor in factors_of(asked, scenario) if not factor.own)
    found = (batch_of_factor(scenario, gpu.index, held.needed_bytes, factor) for factor in factors)
    return next((batch for batch in found if batch is not None), None)


def _said_of_batch(batch: LargerBatch, held: Held) -> str:
    return (
        f"a batch of {batch.rows} explains both: {gib(held.tried_bytes)} is {batch.tokens}, and "
        "the tensors then come to what is shown (per_device_train_batch_size is 8 where it is not "
        "given)"
    )


def _larger(estimate: Estimate, gpu: GpuEstimate, held: Held, *, alone: bool) -> Iterator[str]:
    """The length, and the batch unless that is said already, that would explain it alone."""
    scenario = estimate.scenario
    work = work_of(scenario)
    if work is None:
        return
    rows = longer_rows(scenario, gpu.index, held.needed_bytes)
    batch = larger_batch(scenario, gpu.index, held.needed_bytes) if alone else None
    if rows is not None:
        yield f"or by rows of {rows:,} tokens rather than {work.seq_len:,}"
    if batch is not None:
        yield f"or by a batch of {batch:,} rather than {work.batch:,}"


def gib(num_bytes: int) -> str:
    """``14.04 GiB``; amounts below 1 GiB as MiB with two decimals, as messages print them."""
    return f"{num_bytes / GIB:,.2f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:,.2f} MiB"
