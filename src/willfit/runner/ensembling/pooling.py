"""How the distributions of several models become one: four methods of the same shape.

Each takes the members in their order and adds them up in float64, member after member, row by
row: ``total = w₁·v₁; total += w₂·v₂; …`` over ``w₁; += w₂; …`` of the models that have the row,
which is ``numpy.average(v, axis=0, weights=w)`` to the last bit. A row that no model has gets the
same value for every label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from willfit.runner.ensembling.scores import (
    Floats,
    Scores,
    log_probabilities,
    probabilities,
    softmax,
)

Method: TypeAlias = Literal["mean", "logit", "vote", "rank"]

BLOCK: Final = 65_536
"""Rows of the output that are worked on at a time, where rows do not depend on each other: it
bounds the memory in between."""
TIE: Final = 1e-9
"""Vote shares that differ by no more are tied: 0.1 + 0.2 is not 0.3 in float64."""
NUDGE: Final = 1e-6
"""Share that the winner of a tie is given by the others: more than `TIE`, and still there when a
reader has float32, whose steps below 1 are 6e-8."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A model with a weight above 0, and where its rows go."""

    scores: Scores
    """The model."""
    source: npt.NDArray[np.int64]
    """Rows of ``scores`` that are there."""
    target: npt.NDArray[np.int64]
    """Row of the output that each of them goes to, each at most once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooled:
    """Values of the output, and what is to be said of them."""

    values: Floats
    """``[num_rows, num_labels]``."""
    remarks: tuple[str, ...] = ()
    """Sentences without a full stop."""


def mean(members: Sequence[Member], num_rows: int, num_labels: int) -> Pooled:
    """Weighted mean of probabilities."""
    values = np.empty((num_rows, num_labels))
    for start, part in _blocks(members, num_rows):
        found = _average(part, _probabilities, len(values[start : start + BLOCK]), num_labels)
        values[start : start + BLOCK] = _or_else(found, 1 / num_labels)
    return Pooled(values=values)


def logit(members: Sequence[Member], num_rows: int, num_labels: int) -> Pooled:
    """Softmax of the weighted mean of log-probabilities (log pool): Π pᵢ^wᵢ over its sum."""
    values = np.empty((num_rows, num_labels))
    for start, part in _blocks(members, num_rows):
        found = _average(part, _log_probabilities, len(values[start : start + BLOCK]), num_labels)
        values[start : start + BLOCK] = softmax(_or_else(found, 0.0))
    return Pooled(values=values)


def vote(members: Sequence[Member], num_rows: int, num_labels: int) -> Pooled:
    """Weighted shares of the votes; the largest share of a row is the winner's alone.

    Each model votes for its most probable label, in equal parts if several are. Of labels that tie
    for the first place the one with the greatest mean probability wins (if these tie too, the
    first one): the others give it 1e-6 of the votes, so that ``argmax`` finds it.
    """
    shares = _or_else(_average(members, _votes, num_rows, num_labels), 1 / num_labels)
    tied = shares >= shares.max(axis=1, keepdims=True) - TIE
    rows = np.flatnonzero(tied.sum(axis=1) > 1)
    rows = rows[num_models(members, num_rows)[rows] > 0]
    by_mean = np.where(tied, mean(members, num_rows, num_labels).values, -1.0)[rows]
    others = tied[rows]
    others[np.arange(len(rows)), by_mean.argmax(axis=1)] = False
    num_others = others.sum(axis=1, keepdims=True)
    shares[rows] += np.where(others, -NUDGE / num_others, np.where(tied[rows], NUDGE, 0.0))
    ties = f"votes tied in {len(rows)} of {num_rows} rows, which the mean probability decided"
    return Pooled(
        values=shares,
        remarks=(
            "votes are shares, not probabilities: right for accuracy, wrong for log-loss",
            *([ties] if len(rows) else []),
        ),
    )


def rank(members: Sequence[Member], num_rows: int, num_labels: int) -> Pooled:
    """Weighted mean of each label's ranks among the model's rows, over their number: in (0, 1].

    Equal probabilities share the mean of their ranks. The labels of a row do not sum to 1. A row
    that no model has is in the middle, at 0.5.
    """
    values = _or_else(_average(members, _ranks, num_rows, num_labels), 0.5)
    remark = "mean ranks are not probabilities: right for AUC, wrong for log-loss"
    return Pooled(values=values, remarks=(remark,))


METHODS: Final[Mapping[Method, Callable[[Sequence[Member], int, int], Pooled]]] = {
    "mean": mean,
    "logit": logit,
    "vote": vote,
    "rank": rank,
}


def num_models(members: Sequence[Member], num_rows: int) -> npt.NDArray[np.int32]:
    """``[num_rows]``: how many of the members have each row."""
    count = np.zeros(num_rows, dtype=np.int32)
    for member in members:
        count[member.target] += 1
    return count


def _blocks(members: Sequence[Member], num_rows: int) -> Iterator[tuple[int, tuple[Member, ...]]]:
    """The members' rows in blocks of the output, each with its first row: rows are independent."""
    for start in range(0, num_rows, BLOCK):
        yield start, tuple(_between(member, start, start + BLOCK) for member in members)


def _between(member: Member, start: int, stop: int) -> Member:
    """The member's rows of a block, counted from its start; targets ascend."""
    first, last = np.searchsorted(member.target, (start, stop))
    return Member(
        scores=member.scores,
        source=member.source[first:last],
        target=member.target[first:last] - start,
    )


def _average(
    members: Sequence[Member], of: Callable[[Member], Floats], num_rows: int, num_labels: int
) -> Floats:
    """Weighted mean of what ``of`` gives for each member's rows; NaN where no member has it."""
    total = np.zeros((num_rows, num_labels))
    weight = np.zeros((num_rows, 1))
    for member in members:
        total[member.target] += member.scores.weight * of(member)
        weight[member.target] += member.scores.weight
    with np.errstate(invalid="ignore"):  # 0 / 0: no member
        return np.asarray(total / weight)


def _or_else(values: Floats, otherwise: float) -> Floats:
    return np.asarray(np.where(np.isnan(values), otherwise, values))


def _probabilities(member: Member) -> Floats:
    return probabilities(member.scores, member.source)


def _log_probabilities(member: Member) -> Floats:
    return log_probabilities(member.scores, member.source)


def _votes(member: Member) -> Floats:
    values = _probabilities(member)
    best = values == values.max(axis=1, keepdims=True)
    return np.asarray(best / best.sum(axis=1, keepdims=True))


def _ranks(member: Member) -> Floats:
    values = _probabilities(member)
    ranks = [_average_ranks(values[:, label]) for label in range(values.shape[1])]
    return np.column_stack(ranks) / max(len(values), 1)


def _average_ranks(values: Floats) -> Floats:
    """``[num_rows]``: 1 for the smallest; equal values share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[group])
