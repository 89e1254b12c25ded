"""Several models' scores of the same rows made into one table, and what to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from willfit.errors import InputError
from willfit.runner.ensembling.ids import ABSENT, checked_ids, first_ids, positions
from willfit.runner.ensembling.pooling import METHODS, Member, Method, num_models
from willfit.runner.ensembling.scores import Scores, check_scores, rows_present

__all__ = ["Ensembled", "Method", "Missing", "Scores", "ensemble"]

Missing: TypeAlias = Literal["error", "available"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensembled:
    """One row of values for each id of the output."""

    ids: Any
    """The ids that were given, ``[num_rows]``, in their order and type."""
    probabilities: npt.NDArray[np.float64]
    """``[num_rows, num_labels]``, finite. Rows sum to 1, under ``rank`` they do not."""
    num_models: npt.NDArray[np.int32]
    """``[num_rows]``: how many models with a weight above 0 each row has."""
    weights: Mapping[str, float]
    """Of each model by name, in the order given; they sum to 1."""
    remarks: tuple[str, ...]
    """What to know before using the values; sentences without a full stop."""


def ensemble(
    members: Sequence[Scores],
    *,
    ids: Any,
    method: Method = "mean",
    missing: Missing = "error",
) -> Ensembled:
    """Align the members by id, each with its columns and temperature, and pool them.

    ``ids``: pyarrow array of the output's ids, unique and in its order; each member has the same
    set of ids. ``method``: ``mean`` of probabilities, ``logit`` for the mean of log-probabilities
    (log pool), ``vote`` for shares of the votes, ``rank`` for mean ranks; see
    `willfit.runner.ensembling.pooling` for each and for the order of the arithmetic, which gives
    the same bits on every run. ``missing``: with ``error`` every model must have every row; with
    ``available`` a row is pooled over the models that have it, and a row of none gets
    1/num_labels for every label (0.5 under ``rank``). One member is allowed.

    Raises `InputError` for members that contradict themselves, the ids or each other, and for a
    missing row under ``error``, also of a model with weight 0.
    """
    _check(members, method, missing)
    wanted = checked_ids(ids, "the output")
    aligned = [_align(scores, wanted) for scores in members]
    remarks = [_missing(member, wanted, missing) for member in aligned]
    counted = [member for member in aligned if member.scores.weight > 0]
    num_rows, num_labels = len(wanted), np.shape(members[0].logits)[1]
    pooled = METHODS[method](counted, num_rows, num_labels)
    counts = num_models(counted, num_rows)
    return Ensembled(
        ids=ids,
        probabilities=pooled.values,
        num_models=counts,
        weights=_normalised(members),
        remarks=(*pooled.remarks, *filter(None, remarks), *_without_model(counts)),
    )


def _check(members: Sequence[Scores], method: str, missing: str) -> None:
    if method not in METHODS or missing not in get_args(Missing):
        raise InputError(
            f"ensemble has method {method!r} and missing {missing!r}: choose a method of "
            f"{', '.join(METHODS)} and for missing one of {', '.join(get_args(Missing))}"
        )
    names = [scores.name for scores in members]
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"ensemble has the models {', '.join(names) or 'none'}: give one or more, each once"
        )
    for scores in members:
        check_scores(scores)
    if not sum(scores.weight for scores in members) > 0:
        raise InputError("ensemble has weight 0 for each model: give one of them a greater weight")
    labels = {scores.name: np.shape(scores.logits)[1] for scores in members}
    if len(set(labels.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in labels.items())
        raise InputError(
            f"the models of the ensemble differ in their number of labels ({counts}): "
            "use models of the same labels"
        )


def _align(scores: Scores, wanted: Any) -> Member:
    whose = f"model {scores.name!r}"
    places = positions(wanted, checked_ids(scores.ids, whose, wanted), whose)
    there = places != ABSENT
    there[there] = rows_present(scores)[places[there]]
    return Member(scores=scores, source=places[there], target=np.flatnonzero(there))


def _missing(member: Member, wanted: Any, policy: Missing) -> str | None:
    """The remark on the rows that a model lacks, if any; `InputError` if the policy has it so."""
    name, num_missing = member.scores.name, len(wanted) - len(member.target)
    if not num_missing:
        return None
    if policy == "available":
        return (
            f"model {name!r} has no scores for {num_missing} of {len(wanted)} rows, "
            "which the other models decide"
        )
    lacks = np.ones(len(wanted), dtype=np.bool_)
    lacks[member.target] = False
    raise InputError(
        f"model {name!r} has no scores for {num_missing} of {len(wanted)} rows "
        f"(ids {first_ids(wanted, lacks)}): run it again for these, "
        "or set missing to 'available' to let the other models decide them"
    )


def _normalised(members: Sequence[Scores]) -> dict[str, float]:
    total = sum(scores.weight for scores in members)
    return {scores.name: scores.weight / total for scores in members}


def _without_model(counts: npt.NDArray[np.int32]) -> list[str]:
    num_rows = int((counts == 0).sum())
    if not num_rows:
        return []
    return [f"no model has scores for {num_rows} of {len(counts)} rows: all labels are equal there"]
