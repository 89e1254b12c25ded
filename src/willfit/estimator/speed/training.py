"""Seconds of an optimizer step, on one GPU or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from willfit.dtypes import FLOAT32
from willfit.estimator.speed.prepared import Prepared, rates
from willfit.estimator.speed.shared import (
    REPLICATED,
    attention_kernel,
    gpus_of,
    notes,
    span,
    unsupported,
)
from willfit.estimator.spread import strategy_of
from willfit.formulas.timing.communication import sent_bytes
from willfit.formulas.timing.efficiency import LEVELS
from willfit.formulas.timing.forward import Tokens
from willfit.formulas.timing.lengths import Padded, of_equal, packed, padded
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.result import Timing, limited_by
from willfit.formulas.timing.step import StepWork, Trained, step_work
from willfit.formulas.timing.work import Cost, costs
from willfit.formulas.training.settings import TrainingSettings, fill_training
from willfit.scenario import Scenario
from willfit.scenario.workload import Training

SHARDED_STATES = ("fsdp", "zero1", "zero2", "zero3")
"""Strategies under which every GPU steps its part of the parameters."""


def time_training(scenario: Scenario, training: Training, prepared: Prepared) -> Timing:
    """One optimizer step; the slowest GPU sets the pace."""
    anatomy, gpus, strategy = prepared.anatomy, gpus_of(scenario), strategy_of(scenario)
    settings = fill_training(training, anatomy.architecture, scenario.stack)
    rows, samples = _rows(training, settings)
    trained = _trained(training, prepared)
    kernel = attention_kernel(
        scenario,
        anatomy,
        settings.implementation,
        settings.autocast or (FLOAT32 if trained.kbit else anatomy.dtype),
        batch=settings.batch,
        length=settings.seq_len,
        masked=settings.masked,
        forced=training.sdpa_kernel,
        training=True,
    )
    tokens = Tokens(
        batch=settings.batch,
        q_len=rows.mean,
        kv_len=rows.mean,
        kept=settings.batch * rows.mean,
        pairs_len=rows.root_mean_square,
        cross_len=rows.mean if anatomy.encoder is not None else 0.0,
    )
    cards = [rates(gpu) for gpu in {id(gpu): gpu for gpu in gpus}.values()]
    works = [
        (card, step_work(anatomy, settings, trained, tokens, card, kernel=kernel)) for card in cards
    ]
    sent = sent_bytes(
        strategy,
        len(gpus),
        gradient_bytes=trained.params * trained.dtype.block_bytes,
        weight_bytes=anatomy.weight_bytes,
        micro_batches=settings.accumulation,
    )
    degree = len(gpus) if strategy in SHARDED_STATES else 1
    each = [_spent(work, settings, card, sent, degree) for card, work in works]
    spent = (
        each[0] if len(each) == 1 else [max(some, key=_seconds) for some in zip(*each, strict=True)]
    )
    said = (*settings.assumptions, *notes(scenario, kernel), *_said(training, settings))
    left_out = (*unsupported(scenario), *_left_out(training))
    ranks = len(gpus) if strategy in REPLICATED else 1
    return _timing(settings, rows, samples, ranks, works[0][1], spent, said, left_out)


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds of one optimizer step at one efficiency."""

    forward: Cost
    backward: Cost
    update: Cost
    micro_batches: int
    link: float
    """Seconds of communication that nothing hides."""

    @property
    def seconds(self) -> float:
        micro = self.forward.seconds + self.backward.seconds
        return self.micro_batches * micro + self.update.seconds + self.link


def _seconds(spent: _Spent) -> float:
    return spent.seconds


def _spent(
    work: StepWork, settings: TrainingSettings, card: Rates, sent: float, degree: int
) -> list[_Spent]:
    """A step at the three efficiencies; sharded states are stepped by parts."""
    found: list[_Spent] = []
    phases = zip(
        LEVELS, costs(work.forward, card), costs(work.backward, card), costs(work.update, card),
        strict=True,
    )  # fmt: skip
    for level, ahead, back, whole in phases:
        part = whole
        if degree > 1:
            part = whole._replace(bandwidth=whole.bandwidth / degree, pcie=whole.pcie / degree)
        link = 0.0
        if sent:
            hidden = level.overlap * back.seconds * settings.accumulation
            link = max(sent / (card.link * level.link) - hidden, 0.0)
        found.append(_Spent(ahead, back, part, settings.accumulation, link))
    return found


def _timing(
    settings: TrainingSettings,
    rows: Padded,
    samples_per_row: float,
    ranks: int,
    work: StepWork,
    spent: list[_Spent],
    said: tuple[str, ...],
    left_out: tuple[str, ...],
) -> Timing:
    step = span([each.seconds for each in spent])
    nominal, micro = spent[1], settings.accumulation
    many = settings.batch * micro * ranks
    flops = micro * (work.forward.flops + work.backward.flops)
    whole = nominal.forward.plus(nominal.backward).plus(nominal.update, micro)
    return Timing(
        step_seconds=step,
        tokens_per_second=step.rate(many * rows.real),
        samples_per_second=step.rate(many * samples_per_row),
        samples_per_step=many * samples_per_row,
        padding_waste=rows.waste,
        flops=ranks * flops,
        limited_by="link" if nominal.link > step.nominal / 2 else limited_by(whole),
        parts={
            "forward": micro * nominal.forward.seconds,
            "backward": micro * nominal.backward.seconds,
            "update": nominal.update.seconds,
            "communication": nominal.link,
        },
        assumptions=said,
        unsupported=left_out,
    )


_ROWS: dict[tuple[Any, ...], tuple[tuple[int, ...], Padded, float]] = {}


def _rows(training: Training, settings: TrainingSettings) -> tuple[Padded, float]:
    """The typical row of a micro-batch, and how many samples it holds."""
    lengths = training.lengths
    if not lengths:
        return of_equal(settings.seq_len), 1.0
    key = (id(lengths), settings.batch, settings.seq_len, training.group_by_length, settings.packed,
           settings.masked, settings.accumulation)  # fmt: skip
    found = _ROWS.get(key)
    if found is None:
        found = (lengths, *_measured(training, settings))
        if len(_ROWS) >= 256:
            _ROWS.clear()
        _ROWS[key] = found
    return found[1], found[2]


def _measured(training: Training, settings: TrainingSettings) -> tuple[Padded, float]:
    if settings.packed:
        per_row, square = packed(training.lengths, settings.seq_len)
        real = float(settings.seq_len)
        seen = real if settings.masked else square
        return Padded(mean=real, root_mean_square=seen, real=real), per_row
    rows = padded(
        training.lengths,
        settings.batch,
        settings.seq_len,
        grouped=training.group_by_length,
        accumulation=settings.accumulation,
    )
    return rows, 1.0


def _trained(training: Training, prepared: Prepared) -> Trained:
    kbit, liger = bool(training.prepare_kbit), training.use_liger_kernel
    offloads = training.offload_activations
    if training.method == "full" and training.adapter_config is None:
        params, share, dtype, tensors = prepared.trainable(training.freeze)
        return Trained(params=params, tensors=tensors, dtype=dtype, adapter=None, share=share,
                       kbit=kbit, liger=liger, offloads=offloads)  # fmt: skip
    adapter, params = None, 0.0
    if (lora := training.lora_config) is not None:
        adapter, params = prepared.adapter(lora)
    return Trained(
        params=params,
        tensors=sum(count for _, count in adapter.shapes()) if adapter is not None else 0,
        dtype=adapter.dtype if adapter is not None else FLOAT32,
        adapter=adapter,
        share=0.0,
        kbit=kbit,
        liger=liger,
        offloads=offloads,
    )


def _said(training: Training, settings: TrainingSettings) -> tuple[str, ...]:
    found: list[str] = []
    if settings.optimizer.paged:
        found.append("paged optimizer states stay on the GPU; the slow end has them paged")
    if training.lengths and not settings.packed:
        how = "sorted by length in blocks" if training.group_by_length else "drawn at random"
        found.append(f"micro-batches {how}, padded to their longest row")
    return tuple(found)


def _left_out(training: Training) -> tuple[str, ...]:
    if training.adapter_config is None:
        return ()
    return ("time of this PEFT method: that of the frozen model alone is given",)
