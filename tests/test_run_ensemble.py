"""Ensembles: the arithmetic of a plain loop, each row once, and a file that is whole or not there."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.errors import InputError
from willfit.runner import output
from willfit.runner.ensemble import Ensembled, Scores, ensemble
from willfit.runner.output import label_columns, output_suffix, write_output

METHODS = ("mean", "logit", "vote", "rank")
POOLS = ("mean", "logit", "vote")
NAN = math.nan
TINY = float(np.finfo(np.float32).tiny)


def scores(name: str, rows: Any, ids: Any = None, **options: Any) -> Scores:
    values = np.array(rows, dtype=options.pop("dtype", np.float32))
    keys = pa.array(list(range(len(values))) if ids is None else ids)
    return Scores(name=name, ids=keys, logits=values, **options)


def pooled(members: Sequence[Scores], method: str = "mean", **options: Any) -> Ensembled:
    ids = options.pop("ids", members[0].ids if members else pa.array([1]))
    return ensemble(members, ids=ids, method=method, **options)  # type: ignore[arg-type]


def same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other))


# Worked by hand ----------------------------------------------------------------------------------

HALF, QUARTER = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
TABLE = [
    # method, probabilities and weight of each model, the row that comes out
    ("mean", [(HALF, 1), (QUARTER, 1)], [0.75 / 2, 0.5 / 2, 0.75 / 2]),
    ("mean", [(HALF, 2), (QUARTER, 1)], [1.25 / 3, 0.75 / 3, 1.0 / 3]),
    ("mean", [(HALF, 2), (QUARTER, 0)], HALF),
    ("logit", [([0.8, 0.2], 1), ([0.2, 0.8], 1)], [0.5, 0.5]),  # √(4 · 1/4) = 1 to 1
    ("logit", [([0.8, 0.2], 1), ([0.5, 0.5], 1)], [2 / 3, 1 / 3]),  # √(4 · 1) = 2 to 1
    ("logit", [([0.8, 0.2], 2), ([1 / 3, 2 / 3], 1)], [2 / 3, 1 / 3]),  # ³√(4² · 1/2) = 2 to 1
    ("vote", [(HALF, 2), (QUARTER, 1)], [2 / 3, 0, 1 / 3]),
    ("vote", [([0.4, 0.4, 0.2], 1), ([0.1, 0.2, 0.7], 2)], [0.5 / 3, 0.5 / 3, 2 / 3]),
    ("vote", [([0.6, 0.4], 1), ([0.1, 0.9], 1)], [0.5 - 1e-6, 0.5 + 1e-6]),  # means 0.35, 0.65
    # 0.3 against 0.1 + 0.2, which float64 does not find equal; means 0.65, 0.35
    ("vote", [([0.9, 0.1], 0.3), ([0.4, 0.6], 0.1), ([0.4, 0.6], 0.2)], [0.5 + 1e-6, 0.5 - 1e-6]),
    ("vote", [([0.5, 0.5], 1)], [0.5 + 1e-6, 0.5 - 1e-6]),  # nothing else decides: the first
    ("vote", [([0.5, 0.3, 0.2], 1), ([0.3, 0.5, 0.2], 1), ([0.1, 0.4, 0.5], 1)],
     [1 / 3 - 5e-7, 1 / 3 + 1e-6, 1 / 3 - 5e-7]),  # means 0.3, 0.4, 0.3
    # the last has the greatest mean, 0.4, and no vote: only those that tie are asked for theirs
    ("vote", [([0.41, 0.19, 0.4], 1), ([0.18, 0.42, 0.4], 1)], [0.5 - 1e-6, 0.5 + 1e-6, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("method", "models", "row"), TABLE)
def test_a_row_is_what_the_formula_gives(method: str, models: Any, row: list[float]) -> None:
    members = [
        scores(f"m{i}", [p], weight=w, is_probabilities=True, dtype=np.float64)
        for i, (p, w) in enumerate(models)
    ]
    assert pooled(members, method).probabilities[0] == pytest.approx(row, rel=1e-14, abs=1e-17)
    logits = [replace(m, logits=np.log(m.logits) + 7, is_probabilities=False) for m in members]
    assert pooled(logits, method).probabilities[0] == pytest.approx(row, rel=1e-12)


def test_ranks_are_of_each_label_among_the_rows_of_a_model() -> None:
    one = scores("one", [[0.1, 0.9], [0.4, 0.6], [0.4, 0.6], [0.8, 0.2]], is_probabilities=True)
    two = scores("two", [[0.7, 0.3], [NAN, NAN], [0.2, 0.8], [0.2, 0.8]], is_probabilities=True)
    # first label: ranks 1, 2½, 2½, 4 of 4 and 3, none, 1½, 1½ of 3; second label: the reverse
    table = [[1 / 4, 4 / 4], [2.5 / 4, 2.5 / 4], [2.5 / 4, 2.5 / 4], [4 / 4, 1 / 4]]
    assert pooled([one], "rank").probabilities.tolist() == table
    both = pooled([one, replace(two, weight=3)], "rank", missing="available")
    assert both.probabilities[:, 0] == pytest.approx(
        [(0.25 + 3 * 1) / 4, 2.5 / 4, (0.625 + 3 * 0.5) / 4, (1 + 3 * 0.5) / 4], rel=1e-15
    )
    assert both.num_models.tolist() == [2, 1, 2, 2]


@pytest.mark.parametrize(("temperature", "row"), [(1, [0.8, 0.2]), (2, [2 / 3, 1 / 3]), (0.5, [16 / 17, 1 / 17])])  # fmt: skip
@pytest.mark.parametrize("method", ["mean", "logit"])
def test_a_temperature_divides_logits(method: str, temperature: float, row: list[float]) -> None:
    logits = scores("m", [[math.log(4), 0]], temperature=temperature, dtype=np.float64)
    given_as_p = scores(
        "m", [[0.8, 0.2]], temperature=temperature, is_probabilities=True, dtype=np.float64
    )
    for member in (logits, given_as_p):
        assert pooled([member], method).probabilities[0] == pytest.approx(row, rel=1e-14)


def test_a_model_that_saw_the_answers_swapped_is_swapped_back() -> None:
    straight = scores("straight", [HALF], is_probabilities=True)
    swapped = scores("swapped", [[0.25, 0.5, 0.25]], is_probabilities=True, columns=(1, 0, 2))
    assert pooled([straight, swapped]).probabilities.tolist() == [HALF]
    turned = scores("turned", [[0.1, 0.2, 0.7]], is_probabilities=True, columns=(2, 0, 1))
    assert pooled([turned]).probabilities[0] == pytest.approx([0.7, 0.1, 0.2], rel=1e-6)


def test_probabilities_are_taken_as_they_are_but_for_their_sum() -> None:
    sure = scores("sure", [[1, 0], [0.25, 0.752]], is_probabilities=True, dtype=np.float64)
    assert pooled([sure]).probabilities.tolist() == [[1, 0], [0.25 / 1.002, 0.752 / 1.002]]


def test_one_model_can_almost_but_not_wholly_veto_a_label() -> None:
    vetoes = [scores(f"v{i}", [p], is_probabilities=True) for i, p in enumerate(([1, 0], [0, 1]))]
    assert pooled(vetoes, "logit").probabilities.tolist() == [[0.5, 0.5]]
    strong = [vetoes[0], scores("s", [[1e-6, 1 - 1e-6]], is_probabilities=True)]
    assert pooled(strong, "logit").probabilities[0, 0] == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_extremes_stay_finite(method: str) -> None:
    most = float(np.finfo(np.float32).max)
    members = [
        scores("hot", [[most, -most, 0]], temperature=TINY, weight=most),
        scores("cold", [[-most, most, 0]], temperature=most, weight=TINY),
        scores("sure", [[0, 0, 1]], temperature=TINY, weight=most, is_probabilities=True),
    ]
    for some in (members, members[::-1], members[:1], members[1:2], members[2:]):
        assert np.isfinite(pooled(some, method).probabilities).all()


# The plain loop ----------------------------------------------------------------------------------


def plain(members: Sequence[Scores], ids: Sequence[Any], method: str) -> list[list[float]]:
    """Row by row, member by member, label by label: what `ensemble` must equal to the last bit."""
    by_row: list[list[tuple[Scores, tuple[list[float], list[float]]]]] = [[] for _ in ids]
    for member in members:
        at = {key: number for number, key in enumerate(member.ids.to_pylist())}
        for row, key in zip(by_row, ids, strict=True):
            if key in at and not np.isnan(member.logits[at[key]]).any():
                row.append((member, plain_p(member, at[key])))
    num_labels = members[0].logits.shape[1]
    if method == "rank":
        columns = {m.name: [p for row in by_row for n, (p, _) in row if n is m] for m in members}
        ranked = [[(m, plain_ranks(p, columns[m.name])) for m, (p, _) in row] for row in by_row]
        return [plain_mean(row) if row else [0.5] * num_labels for row in ranked]
    return [plain_row(row, method) if row else [1 / num_labels] * num_labels for row in by_row]


def plain_row(present: Any, method: str) -> list[float]:
    mean = plain_mean([(member, p) for member, (p, _) in present])
    if method == "mean":
        return mean
    if method == "logit":
        return plain_softmax(plain_mean([(member, log_p) for member, (_, log_p) in present]))[0]
    votes = [(m, [(x == max(p)) / p.count(max(p)) for x in p]) for m, (p, _) in present]
    shares = plain_mean(votes)
    tied = [label for label, share in enumerate(shares) if share >= max(shares) - 1e-9]
    if len(tied) > 1:
        winner = max(tied, key=lambda label: mean[label])
        for label in tied:
            shares[label] += 1e-6 if label == winner else -1e-6 / (len(tied) - 1)
    return shares


def plain_mean(present: Sequence[tuple[Scores, list[float]]]) -> list[float]:
    row = []
    for label in range(len(present[0][1])):
        total = weight = 0.0
        for member, values in present:
            total += member.weight * values[label]
            weight += member.weight
        row.append(total / weight)
    return row


def plain_ranks(row: list[float], rows: list[list[float]]) -> list[float]:
    ranks = []
    for label, value in enumerate(row):
        smaller = sum(other[label] < value for other in rows)
        equal = sum(other[label] == value for other in rows)
        ranks.append((smaller + (equal + 1) / 2) / len(rows))
    return ranks


def plain_p(member: Scores, at: int) -> tuple[list[float], list[float]]:
    order = member.columns or range(member.logits.shape[1])
    row = [float(member.logits[at, label]) for label in order]
    if not member.is_probabilities:
        return plain_softmax([x / member.temperature for x in row])
    p, log_p = plain_softmax([float(np.log(max(x, TINY))) / member.temperature for x in row])
    return ([x / plain_sum(row) for x in row] if member.temperature == 1 else p), log_p


def plain_softmax(row: list[float]) -> tuple[list[float], list[float]]:
    z = [x - max(row) for x in row]
    e = [float(np.exp(np.float64(x))) for x in z]
    s = plain_sum(e)
    return [x / s for x in e], [x - float(np.log(np.float64(s))) for x in z]


def plain_sum(values: list[float]) -> float:
    total = 0.0  # not sum(), which compensates from Python 3.12 on
    for value in values:
        total += value
    return total


@st.composite
def models(draw: st.DrawFn, *, holes: bool = False, least: int = 1) -> list[Scores]:
    """Models of the same rows, each with its own order, columns, weight and temperature."""
    num_rows, num_labels = draw(st.integers(1, 7)), draw(st.integers(2, 10))
    spread = st.floats(-40, 40, width=32)
    found = []
    for number in range(draw(st.integers(least, 4))):
        logits = draw(hnp.arrays(np.float32, (num_rows, num_labels), elements=spread))
        is_probabilities = draw(st.booleans())
        if is_probabilities:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            logits = powers / powers.sum(axis=1, keepdims=True)
        if holes:
            logits[draw(hnp.arrays(np.bool_, num_rows))] = NAN
        found.append(Scores(
            name=f"m{number}", logits=logits, is_probabilities=is_probabilities,
            ids=pa.array(draw(st.permutations([f"row {i}" for i in range(num_rows)]))),
            weight=draw(st.sampled_from([1.0, 2.0, 0.3]) | st.floats(0.01, 100)),
            columns=draw(st.none() | st.permutations(range(num_labels)).map(tuple)),
            temperature=draw(st.just(1.0) | st.floats(0.1, 10)),
        ))  # fmt: skip
    return found


@given(models(holes=True), st.sampled_from(METHODS))
def test_the_bits_are_those_of_a_plain_loop(members: list[Scores], method: str) -> None:
    found = pooled(members, method, missing="available")
    assert found.probabilities.tolist() == plain(members, found.ids.to_pylist(), method)


def test_the_bits_are_those_of_a_plain_loop_over_many_rows() -> None:
    rng = np.random.default_rng(5)
    members = [scores(f"m{i}", rng.normal(0, 4, (3001, 9)), weight=w, temperature=t,
                      ids=rng.permutation(3001), columns=tuple(rng.permutation(9).tolist()))
               for i, (w, t) in enumerate([(2.0, 1.0), (1.0, 1.3), (0.7, 0.9)])]  # fmt: skip
    for method in POOLS:
        found = pooled(members, method, ids=pa.array(range(3001)))
        assert found.probabilities.tolist() == plain(members, range(3001), method)


@given(models())
def test_a_mean_is_the_average_of_numpy(members: list[Scores]) -> None:
    ids = members[0].ids
    each = [pooled([m], ids=ids).probabilities for m in (replace(m, weight=1.0) for m in members)]
    average = np.average(each, axis=0, weights=[m.weight for m in members])
    assert same(pooled(members, ids=ids).probabilities, average)


# Laws --------------------------------------------------------------------------------------------


@given(models(holes=True), st.sampled_from(METHODS))
def test_each_row_comes_out_once_and_is_a_distribution(members: list[Scores], method: str) -> None:
    found = pooled(members, method, missing="available")
    assert found.ids.equals(members[0].ids)
    assert found.probabilities.shape == members[0].logits.shape
    assert found.probabilities.dtype == np.float64 and found.num_models.dtype == np.int32
    assert (found.probabilities >= 0).all() and (found.probabilities <= 1 + 1e-12).all()
    if method != "rank":
        assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert sum(found.weights.values()) == pytest.approx(1)


@given(models(holes=True), st.sampled_from(METHODS), st.randoms(use_true_random=False))
def test_the_order_of_rows_in_a_model_changes_no_bit(
    members: list[Scores], method: str, random: Any
) -> None:
    def shuffled(member: Scores) -> Scores:
        order = random.sample(range(len(member.ids)), len(member.ids))
        return replace(member, ids=member.ids.take(pa.array(order)), logits=member.logits[order])

    ids = members[0].ids
    once = pooled(members, method, missing="available")
    again = pooled(list(map(shuffled, members)), method, missing="available", ids=ids)
    assert same(once.probabilities, again.probabilities)
    assert same(once.num_models, again.num_models)


@given(models(holes=True), st.sampled_from(METHODS), st.randoms(use_true_random=False))
def test_the_order_of_the_output_is_that_of_the_ids_given(
    members: list[Scores], method: str, random: Any
) -> None:
    once = pooled(members, method, missing="available")
    order = random.sample(range(len(once.ids)), len(once.ids))
    ids = once.ids.take(pa.array(order))
    again = pooled(members, method, missing="available", ids=ids)
    assert again.ids.equals(ids) and same(again.probabilities, once.probabilities[order])


@given(models(holes=True), st.sampled_from(METHODS), st.sampled_from([0.25, 2.0, 1024.0]))
def test_weights_count_relative_to_each_other(
    members: list[Scores], method: str, factor: float
) -> None:
    scaled = [replace(m, weight=m.weight * factor) for m in members]
    once, again = (pooled(m, method, missing="available") for m in (members, scaled))
    assert same(once.probabilities, again.probabilities)  # powers of two: not a bit is lost
    assert once.weights == pytest.approx(again.weights)


@given(models(holes=True, least=2), st.sampled_from(METHODS))
def test_a_weight_of_0_leaves_a_model_out(members: list[Scores], method: str) -> None:
    none = replace(members[0], weight=0.0)
    once = pooled(members[1:], method, missing="available", ids=none.ids)
    again = pooled([none, *members[1:]], method, missing="available")
    assert same(once.probabilities, again.probabilities)
    assert same(once.num_models, again.num_models) and again.weights["m0"] == 0


@given(models(), st.data())
def test_columns_undo_the_order_in_which_a_model_saw_the_labels(
    members: list[Scores], data: st.DataObject
) -> None:
    member = replace(members[0], columns=None)
    order = data.draw(st.permutations(range(member.logits.shape[1])))
    seen = np.empty_like(member.logits)
    seen[:, order] = member.logits
    for method in METHODS:
        straight = pooled([member], method).probabilities
        assert same(straight, pooled([replace(member, logits=seen, columns=tuple(order))], method).probabilities)  # fmt: skip
        turned = pooled([replace(member, columns=tuple(order))], method).probabilities
        if method not in ("vote", "rank"):  # where the last bit of a sum may decide between equals
            assert turned == pytest.approx(straight[:, order], rel=1e-12)


@given(models())
def test_a_single_model_gives_its_softmax(members: list[Scores]) -> None:
    member = replace(members[0], is_probabilities=False, columns=None)
    x = member.logits.astype(np.float64) / member.temperature
    softmax = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    for method in ("mean", "logit"):
        assert pooled([member], method).probabilities == pytest.approx(softmax, rel=1e-12)


@given(models(), st.integers(2, 5), st.sampled_from(["mean", "logit", "rank"]))
def test_identical_models_give_themselves(members: list[Scores], copies: int, method: str) -> None:
    many = [replace(members[0], name=f"copy {i}", weight=1.0 + i) for i in range(copies)]
    assert pooled(many, method).probabilities == pytest.approx(
        pooled([members[0]], method).probabilities, rel=1e-11
    )


@given(models(), st.floats(0.25, 8), st.data())
def test_a_surer_model_never_makes_its_label_less_likely(
    members: list[Scores], more: float, data: st.DataObject
) -> None:
    member = replace(members[0], is_probabilities=False)
    row, label = (data.draw(st.integers(0, size - 1)) for size in member.logits.shape)
    raised = member.logits.copy()
    raised[row, label] += np.float32(more)
    at = label if member.columns is None else member.columns.index(label)
    for method in METHODS:
        before = pooled([member, *members[1:]], method).probabilities[row]
        after = pooled([replace(member, logits=raised), *members[1:]], method).probabilities[row]
        assert after[at] >= before[at] - 1e-12
        others = np.arange(len(after)) != at
        # where this label took part in a tie, the rest of it is decided anew
        assert method == "vote" or (after[others] <= before[others] + 1e-12).all()


@given(models(holes=True))
def test_the_winner_of_a_vote_has_the_largest_share_alone(members: list[Scores]) -> None:
    members = [replace(m, weight=1.0) for m in members]
    found = pooled(members, "vote", missing="available")
    shares = found.probabilities[found.num_models > 0]
    best = shares.max(axis=1, keepdims=True)
    assert ((shares >= best - 5e-7).sum(axis=1) == 1).all()
    assert same(shares.argmax(axis=1), shares.astype(np.float32).argmax(axis=1))


# Missing rows and ids ----------------------------------------------------------------------------

FULL = scores("full", [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], "abc", is_probabilities=True)
HOLE = scores("hole", [[0.25, 0.75], [NAN, NAN], [NAN, NAN]], "abc", is_probabilities=True)
SHORT = scores("short", [[0.25, 0.75]], "a", is_probabilities=True)


@pytest.mark.parametrize("lacking", [HOLE, replace(HOLE, weight=0.0), replace(SHORT, name="hole")])
def test_a_missing_row_is_an_error_unless_told_otherwise(lacking: Scores) -> None:
    with pytest.raises(InputError, match="'hole' has no scores for 2 of 3 rows") as caught:
        pooled([FULL, lacking])
    assert "(ids 'b', 'c')" in str(caught.value) and "'available'" in str(caught.value)


@pytest.mark.parametrize("lacking", [HOLE, SHORT])
def test_the_models_that_have_a_row_decide_it(lacking: Scores) -> None:
    found = pooled([FULL, replace(lacking, weight=3.0)], missing="available")
    assert found.probabilities.tolist() == [[1.5 / 4, 2.5 / 4], [0.5, 0.5], [0.25, 0.75]]
    assert found.num_models.tolist() == [2, 1, 1]
    assert found.weights == {"full": 0.25, lacking.name: 0.75}
    (remark,) = found.remarks
    assert f"{lacking.name!r} has no scores for 2 of 3 rows" in remark


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_no_model_favours_no_label(method: str) -> None:
    found = pooled([HOLE], method, missing="available")
    assert found.probabilities[1:].tolist() == [[0.5, 0.5]] * 2
    assert found.num_models.tolist() == [1, 0, 0]
    assert any("no model has scores for 2 of 3 rows" in remark for remark in found.remarks)
    three = scores("three", [[NAN] * 3])
    expected = 0.5 if method == "rank" else 1 / 3
    assert pooled([three], method, missing="available").probabilities.tolist() == [[expected] * 3]


def test_a_model_may_have_no_row_at_all() -> None:
    none = Scores(name="none", ids=pa.array([]), logits=np.empty((0, 2), dtype=np.float32))
    for method in METHODS:
        found = pooled([FULL, none], method, missing="available")
        assert same(found.probabilities, pooled([FULL], method).probabilities)
        assert pooled([none], method).probabilities.shape == (0, 2)


IDS = [
    # two types of the same ids
    (pa.array([7, 8, 9], pa.int16()), pa.array([7, 8, 9], pa.uint32())),
    (pa.array(["a", "b", "c"]), pa.array(["a", "b", "c"], pa.large_string())),
    (pa.array(["a", "b", "c"]), pa.array(["a", "b", "c"]).dictionary_encode()),
    (pa.array([1, 2, 3]), pa.chunked_array([[1, 2], [3]])),
    (pa.array(["a", "b", "c"]), pa.chunked_array([pa.array(["a", "b", "c"]).dictionary_encode()])),
    (pa.array([2**64 - 1, 1, 2], pa.uint64()), pa.array([2**64 - 1, 1, 2], pa.uint64())),
]


@pytest.mark.parametrize(("one", "other"), IDS)
def test_ids_are_the_same_whatever_their_width(one: Any, other: Any) -> None:
    for ids, keys in ((one, other), (other, one)):
        found = pooled([replace(FULL, ids=keys)], ids=ids)
        assert found.ids is ids and same(found.probabilities, FULL.logits)


def test_what_a_method_is_wrong_for_is_said() -> None:
    remarks = {m: " ".join(pooled([FULL, replace(FULL, name="2")], m).remarks) for m in METHODS}
    assert remarks["mean"] == remarks["logit"] == ""
    assert "wrong for log-loss" in remarks["rank"] and "wrong for log-loss" in remarks["vote"]
    assert "votes tied in 1 of 3 rows" in remarks["vote"]


# What cannot be ----------------------------------------------------------------------------------

BAD = [
    ([], {}, r"ensemble has the models none: give one or more"),
    ([FULL, FULL], {}, r"the models full, full: give one or more, each once"),
    ([FULL], {"method": "max"}, r"method 'max' .* choose a method of mean, logit, vote, rank"),
    ([FULL], {"missing": "drop"}, r"missing 'drop': .* for missing one of error, available"),
    ([replace(FULL, weight=-1.0)], {}, r"weight -1.0: give 0 or"),
    ([replace(FULL, weight=NAN)], {}, r"weight nan: give 0 or"),
    ([replace(FULL, weight=math.inf)], {}, r"weight inf: give 0 or"),
    ([replace(FULL, weight=0.0)], {}, r"weight 0 for each model"),
    ([replace(FULL, temperature=0.0)], {}, r"temperature 0.0: give a finite number above 0"),
    ([replace(FULL, temperature=-1.0)], {}, r"temperature -1.0: "),
    ([replace(FULL, temperature=math.inf)], {}, r"temperature inf: "),
    ([replace(FULL, columns=(0, 0))], {}, r"columns \[0, 0\]: give each of 0 to 1 once"),
    ([replace(FULL, columns=(1, 2))], {}, r"columns \[1, 2\]"),
    ([replace(FULL, columns=(0,))], {}, r"columns \[0\]"),
    ([replace(FULL, logits=FULL.logits[:2])], {}, r"shape \[2, 2\] for 3 ids"),
    ([replace(FULL, logits=FULL.logits[:, 0])], {}, r"shape \[3\] for 3 ids"),
    ([replace(FULL, logits=FULL.logits[:, :1])], {}, r"1 scores a row, .* 0 and the logit"),
    ([FULL, scores("three", [HALF] * 3, "abc")], {}, r"full has 2, three has 3"),
    ([replace(FULL, ids=pa.array(["a", "b", "a"]))], {"ids": FULL.ids}, r"'full' has ids more than once \('a'\)"),
    ([replace(FULL, ids=pa.array(["a", "b", None]))], {"ids": FULL.ids}, r"'full' has null for an id in 1 of 3"),
    ([FULL], {"ids": pa.array(["a", "b", "b", "c"])}, r"the output has ids more than once \('b'\)"),
    ([FULL], {"ids": pa.array(["a", None, "b", "c"])}, r"the output has null for an id in 1 of 4"),
    ([FULL], {"ids": pa.array([1, 2, 3])}, r"ids of type large_string, but the output's are int64"),
    ([FULL], {"ids": pa.array([["a"], ["b"], ["c"]])}, r"the output has ids of type list.* use integers or strings"),
    ([FULL], {"ids": pa.array(["a"])}, r"does not have \(of 3 these 2: 'b', 'c'\): score the data"),
    ([FULL], {"ids": pa.array(["a"]), "missing": "available"}, r"'full' has ids that the output does not have"),
    ([scores("m", [[1, NAN], [1, 2]], "ab")], {}, r"'m' has scores that are not finite in 1 of 2 rows \(ids 'a'\)"),
    ([scores("m", [[1, 2], [1, math.inf]], "ab")], {"missing": "available"}, r"not finite in 1 of 2 rows \(ids 'b'\)"),
    ([scores("m", [[-math.inf] * 2] * 5)], {}, r"not finite in 5 of 5 rows \(ids 0, 1, 2, …\)"),
    ([scores("m", [[2, -1]], is_probabilities=True)], {}, r"said to be probabilities, but are none in 1 of 1"),
    ([scores("m", [[0.5, 0.48]], is_probabilities=True)], {}, r"said to be probabilities"),
]  # fmt: skip


@pytest.mark.parametrize(("members", "options", "message"), BAD)
def test_what_contradicts_itself_is_refused_in_one_sentence(
    members: list[Scores], options: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pooled(members, **options)
    assert "\n" not in str(caught.value) and ": " in str(caught.value)


def test_an_ensemble_needs_no_torch_and_no_scipy() -> None:
    code = (
        "import sys, willfit.runner.ensemble, willfit.runner.output\n"
        "print({'torch', 'transformers', 'scipy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The file ----------------------------------------------------------------------------------------

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".jsonl")
ANY_FLOAT = st.floats(allow_nan=False, allow_infinity=False)


def read(path: Path) -> list[dict[str, Any]]:
    """The file's rows as anyone reads them; numbers of CSV are text here."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.decode().split("\n")[:-1]]
    return list(csv.DictReader(text.decode().splitlines(keepends=True)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(values=hnp.arrays(np.float64, 3, elements=ANY_FLOAT))
def test_every_float_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, values: Any
) -> None:
    path = tmp_path_factory.mktemp("floats") / f"x{suffix}"
    columns = {"p": values, "narrow": (values % 1e30).astype(np.float32)}
    write_output(path, pa.array([1, 2, 3]), "id", columns)
    for name, column in columns.items():
        assert [float(row[name]) for row in read(path)] == column.astype(np.float64).tolist()


STRINGS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(names=st.lists(STRINGS, min_size=1, max_size=4, unique=True), title=STRINGS.filter(bool))
def test_every_string_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, names: list[str], title: str
) -> None:
    path = tmp_path_factory.mktemp("strings") / f"x{suffix}"
    write_output(path, pa.array(names), title, {title + "2": np.arange(len(names))})
    assert [row[title] for row in read_any(path)] == names


def read_any(path: Path) -> list[dict[str, Any]]:
    """As `read`, but for CSV through pyarrow, since lines may end within strings in many ways."""
    if ".csv" not in path.name:
        return read(path)
    options = pacsv.ParseOptions(newlines_in_values=True)
    text = pacsv.ConvertOptions(strings_can_be_null=False, null_values=[])
    names = pacsv.read_csv(path, parse_options=options).column_names
    text.column_types = dict.fromkeys(names, pa.string())
    return list(pacsv.read_csv(path, parse_options=options, convert_options=text).to_pylist())


IDS2 = pa.array(["plain", 'a "b", c', ""])
COLUMNS = {
    "p": np.array([1.0, 0.1, NAN]),
    "n": pa.array([3, None, 5], pa.int32()),
    "text": pa.array(["x", None, "é\n"]),
    "label": pa.array(["u", "v", "u"]).dictionary_encode(),
    "day": pa.array([date(2024, 5, 1)] * 3),
}
GOLDEN_CSV = """id,p,n,text,label,day
"plain",1,3,"x","u",2024-05-01
"a ""b"", c",0.1,,,"v",2024-05-01
"",nan,5,"é
","u",2024-05-01
"""
GOLDEN_JSONL = r"""{"id": "plain", "p": 1.0, "n": 3, "text": "x", "label": "u", "day": "2024-05-01"}
{"id": "a \"b\", c", "p": 0.1, "n": null, "text": null, "label": "v", "day": "2024-05-01"}
{"id": "", "p": null, "n": 5, "text": "é\n", "label": "u", "day": "2024-05-01"}
"""


def test_text_is_what_a_reader_expects(tmp_path: Path) -> None:
    for suffix, golden in ((".csv", GOLDEN_CSV), (".jsonl", GOLDEN_JSONL)):
        path = tmp_path / f"x{suffix}"
        written = write_output(path, IDS2, "id", COLUMNS)
        assert path.read_text(encoding="utf-8") == golden
        assert written.num_rows == 3
    plain = {"p": np.array([0.5, 0.25])}
    write_output(tmp_path / "plain.csv", pa.array(["a", "b"]), "id", plain)
    assert (
        tmp_path / "plain.csv"
    ).read_text() == "id,p\na,0.5\nb,0.25\n"  # no quotes unless needed
    write_output(tmp_path / "empty.csv", pa.array(["a", "", None]), "id", {})
    assert (tmp_path / "empty.csv").read_text() == 'id\n"a"\n""\n\n'  # "" is text, nothing is null


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_hash_is_of_the_bytes_and_the_bytes_of_the_rows(tmp_path: Path, suffix: str) -> None:
    one, two = (
        write_output(tmp_path / f"{name}{suffix.upper()}", IDS2, "id", COLUMNS) for name in "ab"
    )
    data = (tmp_path / f"a{suffix.upper()}").read_bytes()
    assert one == two and one.sha256 == hashlib.sha256(data).hexdigest()
    assert suffix != ".csv.gz" or data[4:8] == bytes(4)  # the time of writing is not among them


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_number_of_rows_is_written(tmp_path: Path, suffix: str) -> None:
    for num_rows in (0, 1, 40_000):
        ids, p = pa.chunked_array([pa.array(np.arange(num_rows))]), np.arange(num_rows) / 7
        folder = tmp_path / "new" / "folder"
        written = write_output(folder / f"x{suffix}", ids, "id", {"p": p})
        rows = read(folder / f"x{suffix}")
        assert written.num_rows == len(rows) == num_rows
        assert [(int(row["id"]), float(row["p"])) for row in rows] == [*enumerate(p.tolist())]
        assert [file.name for file in folder.iterdir()] == [f"x{suffix}"]


def test_lists_go_where_lists_can(tmp_path: Path) -> None:
    vectors = {"v": pa.array([[1.0, 0.1], []], pa.list_(pa.float32()))}
    for suffix in (".parquet", ".jsonl"):
        write_output(tmp_path / f"x{suffix}", pa.array([1, 2]), "id", vectors)
        narrow = float(np.float32(0.1))
        assert [row["v"] for row in read(tmp_path / f"x{suffix}")] == [[1.0, narrow], []]


ONE = pa.array([1])
REFUSED = [
    ("x.txt", ONE, {}, r"x.txt has no format: end its name with one of .csv, .csv.gz, .parquet, .jsonl"),
    ("csv", ONE, {}, r"has no format"),
    ("x.csv", ONE, {"id": ONE}, r"column 'id' twice"),
    ("x.csv", ONE, {"p": np.zeros(2)}, r"column 'p' has 2 values for 1 ids"),
    ("x.csv", ONE, {"p": np.zeros((1, 2))}, r"must have one value a row .* split"),
    ("x.csv", ONE, {"p": pa.array([[1.0]])}, r"x.csv cannot hold these columns .* name a .parquet file"),
    ("x.jsonl", ONE, {"p": np.array([math.inf])}, r"x.jsonl cannot hold these columns .* name a .parquet file"),
    ("x.jsonl", ONE, {"p": pa.array([b"x"])}, r"x.jsonl cannot hold these columns \(JSON has no bytes\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "ids", "columns", "message"), REFUSED)
def test_what_cannot_be_written_leaves_the_old_file(
    tmp_path: Path, name: str, ids: Any, columns: Any, message: str
) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(InputError, match=message) as caught:
        write_output(tmp_path / name, ids, "id", columns)
    assert "\n" not in str(caught.value)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(name, "old")]


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of POSIX")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_takes_no_more_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    import resource
    import signal

    path = tmp_path / f"x{suffix}"
    path.write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
        with pytest.raises(InputError, match="File too large") as caught:
            write_output(
                path, np.arange(50_000), "id", {"p": np.random.default_rng(0).random(50_000)}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [(path.name, "old")]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "file" / "x.csv", tmp_path / "folder.csv"):
        with pytest.raises(InputError, match=str(path)):
            write_output(path, ONE, "id", {})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "folder.csv"]


def test_a_disk_that_fails_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(table: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setitem(output._WRITERS, ".csv", fails)
    with pytest.raises(InputError, match=r"x.csv cannot be written \(Input/output error\): name"):
        write_output(tmp_path / "x.csv", ONE, "id", {})
    assert not list(tmp_path.iterdir())


def test_the_suffix_is_known_before_anything_is_computed() -> None:
    assert output_suffix("runs/a.b/submission.CSV.gz") == ".csv.gz"
    assert output_suffix(Path("x.parquet")) == ".parquet"
    with pytest.raises(InputError, match=r"end its name with one of \.csv"):
        output_suffix("x.feather")


def test_labels_are_named_once_each() -> None:
    assert label_columns(3, None) == ["label_0", "label_1", "label_2"]
    assert label_columns(2, ["yes", "no"]) == ["yes", "no"]
    for given_names in (["a"], ["a", "a"], ["a", ""], ["a", "b", "c"], []):
        with pytest.raises(InputError, match="2 labels: name each label once"):
            label_columns(2, given_names)
