"""Every change there is, in the order in which they are applied together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from willfit.changes import (
    adapter,
    attention,
    batch,
    inference,
    loading,
    machine,
    offload,
    optimizers,
    placement,
    training,
)
from willfit.changes.change import Change, NotApplicable
from willfit.scenario import Scenario

CHANGES: Final[tuple[Change, ...]] = (
    *machine.ALLOCATOR,
    *adapter.METHODS,
    *loading.DTYPES,
    *loading.QUANTIZATIONS,
    *loading.COMPUTE,
    *training.AUTOCAST,
    *training.PREPARE,
    *attention.ATTENTION,
    *inference.LOGITS,
    *inference.ADAPTER,
    *inference.CHUNKS,
    *inference.BATCHES,
    *inference.CACHES,
    *inference.KV_DTYPES,
    *training.LOSS,
    *training.CHECKPOINTING,
    *training.OFFLOAD,
    *optimizers.OPTIMS,
    *adapter.FREEZE,
    *adapter.LORA,
    *batch.MICRO_BATCHES,
    *attention.KERNELS,
    *placement.INFERENCE,
    *placement.TRAINING,
    *batch.LENGTHS,
    *inference.CONTEXTS,
    *batch.PACKING,
    *training.UNCHECKPOINTED,
    *batch.LARGER_BATCHES,
    *inference.LARGER_BATCHES,
    *placement.FASTER,
    *offload.MAX_MEMORY,
)
"""What a later change needs comes first: types before kernels, methods before ranks, and all that
decides the work before the limits that leave room for it."""

_POSITION: Final = {change.id: index for index, change in enumerate(CHANGES)}


def changes_for(
    scenario: Scenario, *, spends: bool = False, dominated: bool = False, ahead: bool = False
) -> tuple[Change, ...]:
    """The changes that can be made to a scenario, cheapest kind first, always in that order.

    ``spends``: also those that can only save time. ``dominated``: also those that another beats.
    ``ahead``: also those that apply only after one or two of these (flash attention after
    bfloat16).
    """
    rows = [
        change
        for change in CHANGES
        if (spends or not change.spends) and (dominated or not change.dominated_by)
    ]
    found = _found(rows, scenario, frozenset(), deeper=2 if ahead else 0)
    return tuple(sorted((c for c in rows if c.id in found), key=_cost))


def _found(
    rows: Sequence[Change], scenario: Scenario, settled: frozenset[str], *, deeper: int
) -> set[str]:
    """Ids of what applies now, and after up to ``deeper`` others that open the way."""
    outcomes = [(c, c.apply(scenario)) for c in rows if c.setting not in settled]
    applied = [(c, after) for c, after in outcomes if isinstance(after, Scenario)]
    found = {change.id for change, _ in applied}
    if deeper:
        found |= {c.id for c, out in outcomes if isinstance(out, NotApplicable) and out.for_now}
    for change, after in applied if deeper else ():
        if change.opens:
            found |= _found(rows, after, settled | {change.setting}, deeper=deeper - 1)
    return found


def _cost(change: Change) -> tuple[bool, int, int, int]:
    return change.spends, change.quality, change.effort, _POSITION[change.id]


def why_not(scenario: Scenario) -> Mapping[str, str]:
    """The reason by id of every change that cannot be made to a scenario."""
    outcomes = ((change.id, change.apply(scenario)) for change in CHANGES)
    return {name: out.reason for name, out in outcomes if isinstance(out, NotApplicable)}


def in_order(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The changes in the order in which they are made together: what another needs comes first."""
    return tuple(sorted(changes, key=lambda change: _POSITION[change.id]))


def apply_all(scenario: Scenario, changes: Iterable[Change]) -> Scenario | NotApplicable:
    """The changes made one after the other, in the order of `CHANGES` whatever theirs."""
    for change in in_order(changes):
        changed = change.apply(scenario)
        if isinstance(changed, NotApplicable):
            return NotApplicable(reason=f"{change.id}: {changed.reason}")
        scenario = changed
    return scenario
