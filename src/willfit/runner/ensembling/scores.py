"""The scores of one model, checked, and the distributions over labels that they stand for.

All arithmetic is in float64 and in this order, so that a plain loop gets the same bits (L labels,
sums over labels from the first to the last; ``exp`` and ``log`` are numpy's):

    x = score[columns] / temperature        z = x − max(x)        s = exp(z₀) + … + exp(z_L₋₁)
    probability = exp(z) / s                log-probability = z − log(s)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from willfit.errors import InputError
from willfit.runner.ensembling.ids import first_ids

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

FLOAT32: Final = np.finfo(np.float32)
SUM_TOLERANCE: Final = 0.01
"""How far the probabilities of a row may sum from 1: rounding each to float16 moves the sum by at
most 2⁻¹¹, to three decimals by at most 0.0005 a label; logits are off by far more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What one model says of each row."""

    name: str
    """The stage's name, for messages."""
    ids: Any
    """pyarrow array (chunked or not) of ``num_rows`` ids: unique, no nulls, in any order."""
    logits: npt.NDArray[np.floating[Any]]
    """``[num_rows, num_labels]``, float32 as the shards have it; a row of NaN is a missing one."""
    weight: float = 1.0
    """How much this model counts, relative to the others; 0 leaves it out."""
    columns: tuple[int, ...] | None = None
    """``logits[:, columns]`` has the labels in the order that all models share: ``(1, 0, 2)`` for
    a model that saw the first two answers swapped. None: they are in that order."""
    temperature: float = 1.0
    """What logits are divided by: above 1 the model becomes less sure, below 1 surer."""
    is_probabilities: bool = False
    """Whether ``logits`` holds probabilities, as a user's own function may return.

    They must not be negative and must sum to 1 within 0.01 in each row. At temperature 1 each is
    divided by the row's sum; at temperature T their logarithms are taken for logits, which
    gives p^(1/T) over its sum. A probability of 0 counts as 1.2e-38 (the smallest normal float32)
    where a logarithm is taken, so that one model can almost, but not wholly, veto a label."""


def check_scores(scores: Scores) -> None:
    """Raise `InputError` for what no row of the scores could make right."""
    who, shape = f"model {scores.name!r}", np.shape(scores.logits)
    if len(shape) != 2 or shape[0] != len(scores.ids):
        raise InputError(
            f"{who} has scores of shape {list(shape)} for {len(scores.ids)} ids: "
            "give one row of scores for each id"
        )
    if shape[1] < 2:
        raise InputError(
            f"{who} has {shape[1]} scores a row, which is no distribution over labels: "
            "give one for each of at least 2 labels (for a sigmoid's logit: 0 and the logit)"
        )
    if scores.columns is not None and sorted(scores.columns) != list(range(shape[1])):
        raise InputError(
            f"{who} has columns {list(scores.columns)}: "
            f"give each of 0 to {shape[1] - 1} once, in the order of the labels"
        )
    if not FLOAT32.tiny <= scores.temperature <= FLOAT32.max:
        raise InputError(
            f"{who} has temperature {scores.temperature}: give a finite number above 0"
        )
    if not (scores.weight == 0 or FLOAT32.tiny <= scores.weight <= FLOAT32.max):
        raise InputError(f"{who} has weight {scores.weight}: give 0 or a finite number above 0")


def rows_present(scores: Scores) -> Mask:
    """Which rows have scores, ``[num_rows]``.

    Raises `InputError` where a row has some that are not finite, or is no distribution though the
    scores are said to be probabilities.
    """
    values = np.asarray(scores.logits)
    missing = np.isnan(values).all(axis=1)
    broken = ~missing & ~np.isfinite(values).all(axis=1)
    _refuse(scores, np.asarray(broken), "scores that are not finite")
    if scores.is_probabilities:
        sums = row_sums(values.astype(np.float64))
        # NaN is neither below 0 nor off: missing rows pass
        wrong = (values < 0).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE)
        _refuse(scores, wrong, "values that are said to be probabilities, but are none")
    return np.asarray(~missing)


def _refuse(scores: Scores, wrong: Mask, what: str) -> None:
    if wrong.any():
        raise InputError(
            f"model {scores.name!r} has {what} in {wrong.sum()} of {len(wrong)} rows "
            f"(ids {first_ids(scores.ids, wrong)}): correct them, or make these rows NaN "
            "throughout, which counts as missing"
        )


def probabilities(scores: Scores, rows: npt.NDArray[np.int64]) -> Floats:
    """``[len(rows), num_labels]``: the model's distribution over labels in these of its rows."""
    values = _values(scores, rows)
    if scores.is_probabilities and scores.temperature == 1:
        return np.asarray(values / row_sums(values)[:, np.newaxis])
    powers = np.exp(_centred(scores, values))
    return np.asarray(powers / row_sums(powers)[:, np.newaxis])


def log_probabilities(scores: Scores, rows: npt.NDArray[np.int64]) -> Floats:
    """``[len(rows), num_labels]``: logarithms of `probabilities`, finite even where these are 0."""
    centred = _centred(scores, _values(scores, rows))
    return np.asarray(centred - np.log(row_sums(np.exp(centred)))[:, np.newaxis])


def softmax(logits: Floats) -> Floats:
    """``[num_rows, num_labels]``: exp(logit) over its sum in the row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / row_sums(powers)[:, np.newaxis])


def row_sums(values: Floats) -> Floats:
    """``[num_rows]``: sums over labels, from the first to the last.

    ``values.sum(axis=1)`` adds in an order of its own from 8 labels on.
    """
    total = np.array(values[:, 0])
    for label in range(1, values.shape[1]):
        total += values[:, label]
    return total


def _values(scores: Scores, rows: npt.NDArray[np.int64]) -> Floats:
    values = np.asarray(scores.logits)[rows].astype(np.float64)
    return values if scores.columns is None else values[:, scores.columns]


def _centred(scores: Scores, values: Floats) -> Floats:
    """What softmax takes the exponential of: logits over the temperature, less their maximum."""
    if scores.is_probabilities:
        values = np.log(np.maximum(values, FLOAT32.tiny))
    values = values / scores.temperature
    return np.asarray(values - values.max(axis=1, keepdims=True))
