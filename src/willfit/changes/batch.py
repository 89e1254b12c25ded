"""Training batches: micro-batch against accumulation, length, packing, grouping by length."""

from __future__ import annotations

from functools import partial
from typing import Final

from willfit.changes.change import Change, Edit, Guard, Quality, guarded, halvings
from willfit.changes.current import implementation_of, optimizer_name
from willfit.changes.edit import training_of, with_training
from willfit.changes.guards import trains
from willfit.changes.numbers import powers
from willfit.formulas.training.optimizers import OPTIMIZERS
from willfit.formulas.training.settings import VARLEN, length_of, micro_batch_of
from willfit.scenario import Scenario

SMALLEST_LENGTH: Final = 64
"""Below it there is little left to learn from."""


def global_rows(scenario: Scenario) -> int:
    """Rows of an optimizer step on one GPU: micro-batch times accumulation."""
    training = training_of(scenario)
    return micro_batch_of(training) * training.gradient_accumulation_steps


def _micro(value: int) -> Edit:
    """As many rows a step as before."""

    def edit(scenario: Scenario) -> Scenario:
        steps = global_rows(scenario) // value
        return with_training(scenario, micro_batch_size=value, gradient_accumulation_steps=steps)

    return edit


def _divides(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        rows = global_rows(scenario)
        return f"{value} does not divide the {rows} rows of a step" if rows % value else None

    return guard


def _smaller(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now = micro_batch_of(training_of(scenario))
        if now <= value:
            return f"the micro-batch is {now}"
        optimizer = OPTIMIZERS.get(optimizer_name(scenario, training_of(scenario)))
        if optimizer is not None and optimizer.gradients_freed:
            return "LOMO steps inside backward and cannot accumulate"
        return None

    return guard


def _larger(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now = micro_batch_of(training_of(scenario))
        return f"the micro-batch is {now}" if now >= value else None

    return guard


def _micro_batch(value: int) -> Change:
    return Change(
        id=f"per_device_train_batch_size={value}",
        setting="per_device_train_batch_size",
        title=f"Train on {value} row{'s' if value > 1 else ''} at a time, accumulating as many a "
        "step as before",
        apply=guarded(_micro(value), trains, _smaller(value), _divides(value)),
    )


def _larger_batch(value: int) -> Change:
    return Change(
        id=f"per_device_train_batch_size={value}:larger",
        setting="per_device_train_batch_size",
        title=f"Train on {value} rows at a time, accumulating as many a step as before",
        apply=guarded(_micro(value), trains, _larger(value), _divides(value)),
        spends=True,
    )


def _longest(scenario: Scenario) -> int:
    return length_of(training_of(scenario), scenario.model.architecture)


def _over(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        longest = _longest(scenario)
        return f"the longest row is {longest} tokens" if longest <= value else None

    return guard


def cut_share(value: int, scenario: Scenario) -> str:
    """How many rows of the data a shorter length cuts, where their lengths are known."""
    lengths = training_of(scenario).lengths
    if not lengths:
        return "how many rows it cuts hangs on the data: --lengths FILE tells"
    cut = sum(length > value for length in lengths)
    lost = sum(max(length - value, 0) for length in lengths)
    return (
        f"it cuts {cut:,} of {len(lengths):,} rows ({cut / len(lengths):.1%}) and drops "
        f"{lost / sum(lengths):.1%} of the tokens"
    )


def _max_length(value: int) -> Change:
    return Change(
        id=f"max_length={value}",
        setting="max_length",
        title=f"Cut rows at {value:,} tokens",
        apply=guarded(
            lambda scenario: with_training(scenario, max_length=value), trains, _over(value)
        ),
        quality=Quality.REAL,
        quality_reason="what lies beyond the cut is not learned",
        times=lambda scenario: halvings(_longest(scenario), value),
        remark=partial(cut_share, value),
    )


def _with_trl(scenario: Scenario) -> str | None:
    training = training_of(scenario)
    if training.trainer != "trl":
        return "TRL packs, the trainer here does not"
    if training.packing:
        return "rows are packed already"
    return "a classifier reads one row at a time" if scenario.model.classifier else None


def _tells_rows_apart(scenario: Scenario) -> str | None:
    """Without a kernel for rows of several sequences the mask has S² entries."""
    name = implementation_of(scenario)
    return (
        None if name.startswith(VARLEN) else f"{name} needs a mask of S²: flash_attention_2 first"
    )


def _groups(scenario: Scenario) -> str | None:
    training = training_of(scenario)
    if training.group_by_length:
        return "rows are grouped by length already"
    if training.trainer == "loop":
        return "a plain loop makes its own batches"
    if training.packing:
        return "packed rows are of one length"
    if micro_batch_of(training) == 1:
        return "a batch of one row has no padding"
    if not training.lengths:
        return "the lengths of the data are not known (--lengths FILE)"
    return "all rows are of one length" if len(set(training.lengths)) == 1 else None


MICRO_BATCHES: Final = tuple(map(_micro_batch, powers(1, 256)))
LARGER_BATCHES: Final = tuple(map(_larger_batch, reversed(powers(2, 256))))
LENGTHS: Final = tuple(map(_max_length, powers(SMALLEST_LENGTH, 1 << 17)))
PACKING: Final = (
    Change(
        id="packing",
        setting="packing",
        title="Pack rows into sequences of full length (TRL's packing)",
        apply=guarded(
            lambda scenario: with_training(scenario, packing=True, padded=False),
            trains, _with_trl, _tells_rows_apart,
        ),
        quality=Quality.SLIGHT,
        quality_reason="a step holds more rows than before: the learning rate may want another "
        "value (Krell et al. 2021, Efficient Sequence Packing without Cross-contamination)",
        spends=True,
    ),
    Change(
        id="group_by_length",
        setting="group_by_length",
        title="Make batches of rows of like length",
        apply=guarded(
            lambda scenario: with_training(scenario, group_by_length=True), trains, _groups
        ),
        quality=Quality.SLIGHT,
        quality_reason="batches are no longer drawn at random among all rows; the longest come "
        "first",
        spends=True,
    ),
)  # fmt: skip
