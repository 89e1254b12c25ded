"""The search against brute force, on instances small enough to look at every set of changes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from willfit.changes import Change, Effort, NotApplicable, Quality
from willfit.plan.judge import Judgement
from willfit.plan.search import (
    Candidate,
    Found,
    applied,
    beats,
    descend,
    fastest,
    smallest,
    subsets,
)
from willfit.scenario import Scenario, Stack
from willfit.sources.resolve import resolve

MODEL = resolve("gpt2")
BUDGET = 100
SPREAD = 5
"""Bytes by which the high end of a judged range is above the peak."""


def change(number, setting, quality, effort):
    """A change that leaves its mark in the Stack, where judge and clock read it."""

    def apply(scenario):
        if setting in scenario.stack.versions:
            return NotApplicable(reason=f"{setting} is set")
        versions = {**scenario.stack.versions, setting: str(number)}
        return replace(scenario, stack=Stack(versions=MappingProxyType(versions)))

    return Change(
        id=f"{setting}={number}",
        setting=setting,
        title="",
        apply=apply,
        quality=Quality(quality),
        quality_reason="",
        effort=Effort(effort),
    )


def made(scenario):
    return {int(value) for name, value in scenario.stack.versions.items() if name.startswith("s")}


changes_of_one = st.tuples(
    st.integers(0, 3),  # setting
    st.sampled_from([0, 0, 1, 2]),  # quality
    st.sampled_from([0, 0, 1, 2]),  # effort
    st.integers(-5, 60),  # bytes saved alone
    st.sampled_from([0.5, 0.8, 1.0, 1.0, 1.3, 2.0]),  # time ratio
)
instances = st.tuples(
    st.lists(changes_of_one, max_size=6),
    st.integers(60, 200),  # baseline bytes
    st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 5)), st.integers(-20, 20)),
)


class World:
    """Peaks that are not additive: pairs of changes help or hinder each other."""

    def __init__(self, instance):
        rows, self.start_bytes, self.pairs = instance
        self.rows = rows
        self.changes = [change(n, f"s{row[0]}", row[1], row[2]) for n, row in enumerate(rows)]
        self.scenario = Scenario(model=MODEL, stack=Stack(versions={}))

    def judge(self, scenario):
        present = made(scenario)
        peak = self.start_bytes - sum(self.rows[n][3] for n in present)
        peak += sum(v for (a, b), v in self.pairs.items() if a in present and b in present)
        over = peak - BUDGET
        verdict = "fits" if over <= -SPREAD else "tight" if over <= SPREAD else "does_not_fit"
        return Judgement(verdict=verdict, peak_bytes=peak, over_bytes=over)

    def seconds(self, scenario):
        result = 10.0
        for n in made(scenario):
            result *= self.rows[n][4]
        return result

    def every_set(self):
        """All sets with one change of a setting, up to four changes, in the table's order."""
        start = Candidate(changes=(), scenario=self.scenario, time_of=self.seconds)
        yield start
        for size in range(1, 5):
            for chosen in itertools.combinations(self.changes, size):
                if len({item.setting for item in chosen}) == size:
                    candidate = applied(start, chosen)
                    assert candidate is not None
                    yield candidate


def brute_force(world: World) -> list[Candidate]:
    every = list(world.every_set())
    for wanted in ("fits", "tight"):
        fits = [c for c in every if world.judge(c.scenario).verdict == wanted]
        minimal = [
            c
            for c in fits
            if not any(c.contains(o) for o in fits if len(o.changes) < len(c.changes))
        ]
        kept = [c for c in minimal if not any(beats(o, c) and not beats(c, o) for o in minimal)]
        if kept:
            return kept
    return []


@settings(max_examples=400, deadline=None)
@given(instances)
def test_the_smallest_plans_are_those_of_brute_force(instance):
    world = World(instance)
    found = smallest(world.scenario, world.changes, world.judge, world.seconds)
    expected = brute_force(world)
    assert {c.cost for c in found.candidates} == {c.cost for c in expected}
    assert all(c.changes in [e.changes for e in expected] for c in found.candidates)
    if expected:
        assert found.verdict == world.judge(expected[0].scenario).verdict


@settings(max_examples=200, deadline=None)
@given(instances)
def test_the_fastest_plan_is_that_of_brute_force(instance):
    world = World(instance)
    found = fastest(world.scenario, world.changes, world.judge, world.seconds, 1)
    every = list(world.every_set())
    fits = [c for c in every if world.judge(c.scenario).verdict == "fits"]
    mild = [c for c in fits if c.quality != Quality.REAL]
    best = min((mild or fits), key=lambda c: c.seconds, default=None)
    if best is None:
        assert found.verdict != "fits"
    else:
        assert found.candidates[0].seconds <= best.seconds * 1.1
        assert (found.candidates[0].quality == Quality.REAL) == (best.quality == Quality.REAL)


@settings(max_examples=200, deadline=None)
@given(instances)
def test_a_descent_ends_in_a_set_that_fits_and_needs_every_change(instance):
    world = World(instance)
    start = Candidate(changes=(), scenario=world.scenario, time_of=world.seconds)
    deep = descend(start, world.changes, world.judge)
    if deep is None:
        return
    assert world.judge(deep.scenario).verdict != "does_not_fit"


def test_a_search_that_found_something_judges_no_larger_set_with_it():
    rows = [(n, 0, 0, 60, 1.0) for n in range(4)]
    world = World((rows, 120, {}))
    judged = []

    def judge(scenario):
        judged.append(made(scenario))
        return world.judge(scenario)

    found = smallest(world.scenario, world.changes, judge, world.seconds)
    assert isinstance(found, Found)
    assert [c.changes[0].id for c in found.candidates] == ["s0=0"]
    assert max(map(len, judged)) == 1


def test_what_beats_all_the_others_is_found_among_sets_of_four():
    rows = [(n, 0, 0, 10, 1.0) for n in range(4)]
    world = World((rows, 132, {}))
    found = smallest(world.scenario, world.changes, world.judge, world.seconds)
    assert found.verdict == "fits" and [len(c.changes) for c in found.candidates] == [4]


def test_nothing_that_fits_names_what_misses_by_least():
    rows = [(0, 0, 0, 10, 1.0), (1, 2, 0, 20, 1.0)]
    world = World((rows, 200, {}))
    found = smallest(world.scenario, world.changes, world.judge, world.seconds)
    assert found.candidates == () and found.verdict == "does_not_fit"
    assert found.closest is not None
    closest, judged = found.closest
    assert [c.id for c in closest.changes] == ["s0=0", "s1=1"] and judged.over_bytes == 70


@pytest.mark.parametrize("size", [1, 2, 3])
def test_subsets_are_given_once_each_and_small_ones_first(size):
    rows = [(n % 3, 0, 0, 1, 1.0) for n in range(5)]
    world = World((rows, 120, {}))
    start = Candidate(changes=(), scenario=world.scenario, time_of=world.seconds)
    sets = [tuple(c.id for c in item.changes) for item in subsets(start, world.changes, size)]
    assert len(sets) == len(set(sets)) and sets == sorted(sets, key=len)
    assert max(map(len, sets)) == size
