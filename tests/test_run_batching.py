"""Batches: each row once, no more tokens than the budget, and a budget that only learns.

How much of a batch is padding, over all batches of 25,000 rows in the shards that a run makes of
them; 0 % would be no padding at all. "In order" is the same budget without sorting.

    ====================  =======  ========  ========  ========
    lengths               budget   sorted    in order  shards
    ====================  =======  ========  ========  ========
    chats, cut at 2,048     4,096     0.1 %      91 %       100
    chats, cut at 2,048    16,384     0.4 %     209 %       100
    chats, cut at 2,048   262,144     2.2 %     425 %       100
    LMSYS-like, at 1,536   16,384     0.1 %      50 %       100
    documents, whole       65,536     0.8 %     237 %       100
    short and long         16,384     0.6 %     285 %       100
    short and long        262,144     3.3 %   1,233 %       100
    questions              16,384     1.6 %     414 %       100
    ====================  =======  ========  ========  ========

A shard bounds it: where one batch takes a whole shard, rows differ by what 1/100 of the work spans.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from willfit.runner.batching import (  # noqa: E402 - after the extra is known to be there
    CLEAN,
    GROWTH,
    SHRINK,
    Budget,
    padded_in_order,
    padded_tokens,
)
from willfit.runner.shards.ranges import FEWEST_TOKENS, MOST_ROWS, NUM_SHARDS, boundaries  # noqa: E402

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


def batches(
    budget: Budget, lengths: Any, sequences: Any, extra: int = 0, cuts: Any = ()
) -> list[tuple[int, int]]:
    """Ranges of rows, as a worker makes them within shards."""
    found = []
    for start, stop in itertools.pairwise([0, *cuts, len(lengths)]):
        while start < stop:
            count = budget.rows(lengths[start:stop], sequences[start:stop], extra)
            found.append((start, start + count))
            start += count
    return found


# ---- what a batch may have


@given(
    LENGTHS, st.integers(1, 2000), st.none() | st.integers(1, 9), st.integers(0, 40),
    st.integers(1, 5), st.booleans(),
)  # fmt: skip
def test_each_row_is_in_one_batch_and_no_batch_above_the_budget_has_two(
    given_lengths: list[int], tokens: int, most_rows: int | None, extra: int, width: int, sort: bool
) -> None:
    lengths = np.asarray(sorted(given_lengths, reverse=True) if sort else given_lengths, np.int32)
    sequences = np.full_like(lengths, width)
    budget = Budget(tokens=tokens, most_rows=most_rows)
    made = batches(budget, lengths, sequences, extra)
    assert [row for start, stop in made for row in range(start, stop)] == list(range(len(lengths)))
    for start, stop in made:
        padded = padded_tokens(lengths[start:stop], sequences[start:stop], extra)
        assert padded == max(lengths[start:stop] + extra) * width * (stop - start)
        assert padded <= tokens or stop - start == 1
        assert most_rows is None or stop - start <= most_rows
        if stop < len(lengths) and stop - start != most_rows:  # the next row would not have fitted
            more = slice(start, stop + 1)
            assert padded_tokens(lengths[more], sequences[more], extra) > tokens


@given(LENGTHS, st.none() | st.integers(1, 9))
def test_without_a_budget_a_batch_is_what_it_is_given(
    given_lengths: list[int], most_rows: int | None
) -> None:
    lengths = np.asarray(given_lengths, np.int32)
    budget = Budget(tokens=None, most_rows=most_rows)
    count = budget.rows(lengths, np.ones_like(lengths))
    assert count == min(len(lengths), most_rows or len(lengths))


@given(LENGTHS, st.integers(1, 2000))
def test_padding_in_order_is_the_sum_of_its_batches(given_lengths: list[int], tokens: int) -> None:
    lengths = np.asarray(given_lengths, np.int32)
    ones = np.ones_like(lengths)
    total = sum(
        padded_tokens(lengths[a:b], ones[a:b])
        for a, b in batches(Budget(tokens=tokens), lengths, ones)
    )
    assert padded_in_order(lengths, ones, tokens) == total
    assert total >= lengths.sum()


# ---- what it learns


class Device:
    """Fails above ``limit`` padded tokens, and flushes its cache above ``thrash``."""

    def __init__(self, limit: int, thrash: int | None = None) -> None:
        self.limit, self.thrash, self.retries = limit, thrash, 0

    def takes(self, padded: int) -> bool:
        if self.thrash is not None and padded > self.thrash:
            self.retries += 1
        return padded <= self.limit


def simulated(
    budget: Budget, lengths: Any, device: Device, most: int = 100_000
) -> tuple[list[int], list[int]]:
    """Padded tokens of the batches that failed, and of those that were done."""
    ones, at, failed, done = np.ones_like(lengths), 0, [], []
    while at < len(lengths):
        assert len(failed) + len(done) < most, "an endless loop"
        count = budget.rows(lengths[at:], ones[at:])
        padded = padded_tokens(lengths[at : at + count], ones[at : at + count])
        if device.takes(padded):
            budget.went_well(device.retries, padded)
            done.append(padded)
            at += count
        else:
            assert count > 1, "a row that fits was given alone"
            failed.append(padded)
            budget.ran_out(padded)
    return failed, done


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=300), st.integers(1, 50_000),
    st.integers(100, 3000),
)  # fmt: skip
def test_what_failed_is_never_tried_again(
    given_lengths: list[int], tokens: int, limit: int
) -> None:
    """Every row is done where it fits alone; failures come at the start, halving."""
    lengths = np.asarray(sorted(given_lengths, reverse=True), np.int32)
    budget = Budget(tokens=tokens)
    failed, done = simulated(budget, lengths, Device(limit))
    assert failed == sorted(set(failed), reverse=True)  # each smaller than the one before
    assert all(later <= earlier for earlier, later in itertools.pairwise(failed))
    assert len(failed) <= np.log2(max(2, tokens)) + 1
    assert all(padded <= limit for padded in done)
    if failed:
        assert budget.failed_at == min(failed)
        assert budget.tokens is not None
        assert budget.tokens < min(failed)


def test_a_budget_is_halved_when_memory_runs_out() -> None:
    budget = Budget(tokens=8192)
    assert budget.ran_out(8000) == (8000, 4000)  # what was tried, not what was allowed
    assert budget.ran_out(3900) == (3900, 1950)
    assert Budget(tokens=None).ran_out(1000) == (1000, 500)
    assert Budget(tokens=1000).ran_out(1700) == (1000, 500)  # one row alone above the budget


def test_a_budget_grows_after_clean_batches_but_not_to_what_failed() -> None:
    budget = Budget(tokens=1000)
    for _ in range(CLEAN - 1):
        budget.went_well()
    assert budget.tokens == 1000
    budget.went_well()
    assert budget.tokens == int(1000 * GROWTH)
    budget.ran_out(1100)
    assert budget.tokens == 550
    for _ in range(100 * CLEAN):
        budget.went_well()
    assert budget.tokens == 1099


def test_small_batches_prove_nothing() -> None:
    """The ends of shards, and rows of which ``batch_size`` allows no more, are no reason to grow."""
    budget = Budget(tokens=1000, most_rows=4)
    for _ in range(10 * CLEAN):
        budget.went_well(padded=499)
    assert budget.tokens == 1000
    for _ in range(CLEAN):
        budget.went_well(padded=500)
    assert budget.tokens == 1100


def test_a_budget_shrinks_when_the_cache_is_flushed_twice_running() -> None:
    """Composer's sign of thrashing: it comes before memory runs out."""
    budget = Budget(tokens=1000)
    budget.went_well(1)
    budget.went_well(1)
    budget.went_well(2)  # once, and not running
    assert budget.tokens == 1000
    budget.went_well(3)
    assert budget.tokens == int(1000 * SHRINK)
    assert budget.clean == 0


def test_thrashing_ends() -> None:
    lengths = np.full(4000, 10, np.int32)
    budget, device = Budget(tokens=1000), Device(limit=2000, thrash=500)
    _, done = simulated(budget, lengths, device)
    assert max(done[:2]) > 500
    assert np.mean([padded > 500 for padded in done]) < 0.1


@given(st.integers(0, 3), st.integers(0, 3))
def test_without_a_budget_nothing_is_learnt_but_what_failed(first: int, second: int) -> None:
    budget = Budget(tokens=None)
    for _ in range(CLEAN + 2):
        budget.went_well(first)
        budget.went_well(first + second)
    assert budget.tokens is None


# ---- how much is padding


def lognormal(mean_log: float, sigma: float, most: int | None, count: int = 25_000) -> Any:
    found = np.maximum(1, np.random.default_rng(0).lognormal(mean_log, sigma, count)).astype(
        np.int32
    )
    return found if most is None else np.minimum(found, most)


def short_and_long() -> Any:
    """Nine tenths of a chat's turns are short, and the rest are pasted documents."""
    parts = lognormal(4.2, 0.8, None, 22_500), lognormal(7.5, 0.7, 8192, 2_500)
    return np.random.default_rng(1).permutation(np.concatenate(parts))


SHAPES: list[tuple[str, Any, int, float, float]] = [
    # lengths, budget, percent of padding at most, percent in order at least
    ("chats", lognormal(5.5, 1.0, 2048), 4096, 0.2, 80),
    ("chats", lognormal(5.5, 1.0, 2048), 16_384, 0.5, 150),
    ("chats", lognormal(5.5, 1.0, 2048), 65_536, 2, 250),
    ("chats", lognormal(5.5, 1.0, 2048), 262_144, 3, 300),
    ("lmsys", lognormal(7.0, 1.0, 1536), 16_384, 0.5, 40),
    ("documents", lognormal(6.3, 0.8, None), 65_536, 2, 150),
    ("short-and-long", short_and_long(), 16_384, 1, 250),
    ("short-and-long", short_and_long(), 262_144, 5, 250),
    ("questions", lognormal(4.0, 1.2, 4096), 16_384, 3, 250),
    ("questions", lognormal(4.0, 1.2, 4096), 262_144, 5, 250),
]  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "tokens", "most", "in_order"),
    [row[1:] for row in SHAPES], ids=[f"{row[0]}-{row[2]}" for row in SHAPES],
)  # fmt: skip
def test_sorted_rows_are_hardly_padded(
    lengths: Any, tokens: int, most: float, in_order: float
) -> None:
    ordered = np.sort(lengths)[::-1]
    ones = np.ones_like(ordered)
    cuts = boundaries(ordered.astype(np.int64))
    assert len(cuts) == 101
    made = batches(Budget(tokens=tokens), ordered, ones, cuts=cuts[1:-1])
    padded = sum(padded_tokens(ordered[a:b], ones[a:b]) for a, b in made)
    waste = 100 * (padded / ordered.sum() - 1)
    unsorted = 100 * (padded_in_order(lengths, ones, tokens) / ordered.sum() - 1)
    assert waste <= most, f"{waste:.2f} % padding in {len(made)} batches"
    assert unsorted >= in_order, f"{unsorted:.0f} % in order"


@given(st.lists(st.integers(1, 5000), min_size=0, max_size=400), st.none() | st.integers(1, 50))
def test_shards_are_cut_into_about_equal_work(work: list[int], shards: int | None) -> None:
    """None is empty, none is more than its share by more than one row."""
    ordered = np.asarray(sorted(work, reverse=True), np.int64)
    cuts = boundaries(ordered, shards=shards)
    assert cuts[0] == 0
    assert cuts[-1] == len(work)
    assert list(cuts) == sorted(set(cuts))
    if not work:
        return
    usual = max(1, min(NUM_SHARDS, int(ordered.sum()) // FEWEST_TOKENS))
    wanted = min(len(work), shards or usual)
    assert len(cuts) - 1 <= wanted
    for a, b in itertools.pairwise(cuts):
        assert ordered[a:b].sum() <= ordered.sum() / wanted + ordered[0]
        assert b - a <= MOST_ROWS
