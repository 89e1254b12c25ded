"""Which shard goes out next, and when a stage gives up: rows end done or poison, never both."""

from __future__ import annotations

import itertools
import math
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from willfit.errors import StageFailedError
from willfit.runner.context import Context
from willfit.runner.deadline import Deadline
from willfit.runner.gpus import ScriptedProbe, visible
from willfit.runner.observer import Silent
from willfit.runner.processes import Ended, Listener, Worker
from willfit.runner.protocol import ROW_OOM, Command, Job, Loaded, ShardDone, ShardFailed, Take
from willfit.runner.replica import Replica
from willfit.runner.schedule import ATTEMPTS, Schedule
from willfit.runner.shards import Range, Store, shard_bytes, shard_name
from willfit.runner.stages.budgets import Budgets
from willfit.runner.stages.compute import MOST_POISON, Computation


def cut(sizes: Sequence[int]) -> list[Range]:
    """Pieces of these sizes, side by side."""
    edges = np.cumsum([0, *sizes]).tolist()
    return [Range(a, b) for a, b in itertools.pairwise(edges)]


PIECES = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(cut)


@st.composite
def pieces_and_bad(draw: st.DrawFn) -> tuple[list[Range], set[int]]:
    pieces = draw(PIECES)
    total = pieces[-1].stop
    bad = draw(st.sets(st.integers(0, total - 1), max_size=6))
    return pieces, bad


def suspect_of(rows: Range, bad: set[int], batch: int) -> Range | None:
    """The batch of a shard that has a bad row, if one has."""
    for start in range(rows.start, rows.stop, batch):
        found = Range(start, min(start + batch, rows.stop))
        if bad & set(range(*found)):
            return found
    return None


def drain(schedule: Schedule, bad: set[int], batch: int | None) -> Iterator[tuple[Range, bool]]:
    """One worker that fails on bad rows: by dying (``batch`` None), or saying which batch it was."""
    while (rows := schedule.take()) is not None:
        suspect = suspect_of(rows, bad, batch or rows.size)
        yield rows, suspect is None
        if suspect is None:
            schedule.done(rows)
        else:
            schedule.failed(rows, "bad", suspect if batch else None)


@given(pieces_and_bad(), st.none() | st.integers(1, 10))
def test_exactly_the_bad_rows_are_poison_and_all_others_are_done_once(
    given_: tuple[list[Range], set[int]], batch: int | None
) -> None:
    pieces, bad = given_
    schedule = Schedule.of(pieces)
    done = [row for rows, ok in drain(schedule, bad, batch) if ok for row in range(*rows)]
    assert schedule.finished
    assert sorted(done) == sorted(set(range(pieces[-1].stop)) - bad)
    assert set(schedule.poison) == bad
    assert schedule.num_done == len(done)


@given(pieces_and_bad(), st.none() | st.integers(1, 10))
def test_no_range_is_tried_more_often_than_stated(
    given_: tuple[list[Range], set[int]], batch: int | None
) -> None:
    pieces, bad = given_
    tries = Counter(rows for rows, _ in drain(Schedule.of(pieces), bad, batch))
    assert max(tries.values()) <= ATTEMPTS


@given(pieces_and_bad(), st.none() | st.integers(1, 10))
def test_a_row_is_in_few_tries(given_: tuple[list[Range], set[int]], batch: int | None) -> None:
    """A shard's own tries, one a halving, two of the row alone, and two for each bad row beside."""
    pieces, bad = given_
    tries: Counter[int] = Counter()
    for rows, _ in drain(Schedule.of(pieces), bad, batch):
        tries.update(range(*rows))
    for piece in pieces:
        beside = len(bad & set(range(*piece))) if batch else 0
        most = ATTEMPTS + math.ceil(math.log2(piece.size)) + 2 + 2 * beside
        assert max(tries[row] for row in range(*piece)) <= most


@given(pieces_and_bad(), st.none() | st.integers(1, 10))
def test_what_failed_waits_for_what_never_did_unless_much_of_it_waits(
    given_: tuple[list[Range], set[int]], batch: int | None
) -> None:
    pieces, bad = given_
    schedule = Schedule.of(pieces)
    for rows, _ in drain(schedule, bad, batch):
        waiting = [other for other in schedule.pending if other in schedule.failures]
        fresh = [other for other in schedule.pending if other not in schedule.failures]
        if rows in schedule.failures and fresh:
            assert len(waiting) + 1 > ATTEMPTS


def test_good_rows_come_first_and_one_bad_row_costs_its_shard_alone() -> None:
    schedule = Schedule.of(cut([4, 4, 4]))
    order = [str(rows) for rows, _ in drain(schedule, {1}, None)]
    assert order == ["0–3", "4–7", "8–11", "0–3", "0–3", "0–1", "0–0", "1–1", "1–1", "2–3"]


def test_rows_that_a_worker_named_are_taken_apart_and_the_rest_goes_on_at_once() -> None:
    schedule = Schedule.of(cut([4, 4]))
    order = [str(rows) for rows, _ in drain(schedule, {0, 2}, 1)]
    assert order == ["0–3", "1–3", "1–1", "3–3", "4–7", "0–0", "0–0", "2–2", "2–2"]


def test_a_shard_that_is_given_back_has_not_failed() -> None:
    schedule = Schedule.of(cut([2, 2]))
    rows = schedule.take()
    assert rows is not None
    schedule.give_back(rows)
    assert schedule.take() == rows and not schedule.failures and not schedule.num_retries


class AnyOrder(RuleBasedStateMachine):
    """Several workers at once, whatever they do: no row is lost, doubled, or both things."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = cut([7, 1, 16, 3])
        self.schedule = Schedule.of(self.pieces)
        self.done: list[Range] = []

    @precondition(lambda self: self.schedule.pending)
    @rule()
    def take(self) -> None:
        expected = self.schedule.pending[0]
        assert self.schedule.take() == expected

    @precondition(lambda self: self.schedule.in_flight)
    @rule(data=st.data(), what=st.sampled_from(["done", "died", "failed", "back"]))
    def happens(self, data: st.DataObject, what: str) -> None:
        rows = data.draw(st.sampled_from(sorted(self.schedule.in_flight)))
        if what == "done":
            self.schedule.done(rows)
            self.done.append(rows)
        elif what == "died":
            self.schedule.failed(rows, "died")
        elif what == "back":
            self.schedule.give_back(rows)
        else:
            first = data.draw(st.integers(rows.start, rows.stop - 1))
            self.schedule.failed(
                rows, "bad", Range(first, data.draw(st.integers(first + 1, rows.stop)))
            )

    @precondition(lambda self: self.schedule.finished)
    @rule()
    def nothing_is_left(self) -> None:
        assert self.schedule.take() is None

    @invariant()
    def every_row_is_in_one_place(self) -> None:
        poison = [Range(row, row + 1) for row in self.schedule.poison]
        places = [*self.schedule.pending, *self.schedule.in_flight, *self.done, *poison]
        rows = [row for rows in places for row in range(*rows)]
        assert sorted(rows) == list(range(self.pieces[-1].stop))

    @invariant()
    def no_range_has_used_up_its_tries(self) -> None:
        assert all(count < ATTEMPTS for count in self.schedule.failures.values())
        assert self.schedule.num_done == sum(rows.size for rows in self.done)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


# ---- the loop of a stage, with workers that follow a script


@dataclass(kw_only=True)
class Script:
    """What workers come to; each happens the moment a worker is asked for it."""

    kills: set[int] = field(default_factory=set)
    """Positions on which a worker dies."""
    raises: set[int] = field(default_factory=set)
    """Positions whose batch raises."""
    too_large: set[int] = field(default_factory=set)
    """Positions that no GPU can hold: the worker says so and leaves."""
    batch: int = 1000
    """Rows of a batch."""
    loads: bool = True
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    death: float = 0.0
    """Chance of dying in a shard, through no fault of the rows."""
    rots: set[int] = field(default_factory=set)
    """Positions whose shard is not what was written when it is looked at."""
    after_rename: float = 0.0
    """Chance of dying when the shard's file has its name, and its event is not sent."""
    starts: int = 0
    tries: Counter[Range] = field(default_factory=Counter)


class ScriptedWorker:
    """Says what its script says, at once."""

    def __init__(self, script: Script, store: Store, listener: Listener) -> None:
        self.script, self.store, self.listener, self.alive = script, store, listener, True
        if script.loads:
            listener(Loaded(seconds=0.0))
        else:
            self.die(1)

    def die(self, code: int) -> None:
        if self.alive:
            self.alive = False
            self.listener(Ended(code=code, log="the last line"))

    def end(self, *_: float) -> None:
        self.alive = False

    def send(self, command: Command) -> bool:
        if self.alive and isinstance(command, Take):
            self.compute(Range(command.start, command.stop))
            return True
        return False

    def compute(self, rows: Range) -> None:
        script = self.script
        script.tries[rows] += 1
        inside = set(range(*rows))
        if script.dice.random() < script.death or inside & script.kills:
            return self.die(-9)
        if inside & script.too_large:
            first = min(inside & script.too_large)
            self.failed(rows, Range(first, first + 1), leaves=True)
            return self.die(ROW_OOM)
        bad = suspect_of(rows, script.raises, script.batch)
        if bad is not None:
            return self.failed(rows, bad, leaves=False)
        name = write_shard(self.store, rows)
        if inside & script.rots:
            (self.store.folder / name).write_bytes(b"not this")
        if script.dice.random() < script.after_rename:
            return self.die(-9)
        return self.listener(
            ShardDone(
                start=rows.start, stop=rows.stop, file=name, tokens=rows.size,
                padded_tokens=rows.size, seconds=0.001,
            )
        )  # fmt: skip

    def failed(self, rows: Range, suspect: Range, *, leaves: bool) -> None:
        self.listener(
            ShardFailed(
                start=rows.start, stop=rows.stop, first=suspect.start, last=suspect.stop,
                kind="error", reason="it raised", leaves=leaves,
            )
        )  # fmt: skip


def write_shard(store: Store, rows: Range) -> str:
    table = pa.table(
        {
            "id": store.ids_of(rows),
            "n_tokens": pa.array([1] * rows.size, pa.int32()),
            "error": pa.nulls(rows.size, pa.string()),
            "logits": pa.array([[float(row)] for row in range(*rows)], pa.list_(pa.float32())),
        }
    )
    facts = {"fingerprint": store.fingerprint, "start": rows.start, "stop": rows.stop}
    data = shard_bytes(table, facts)
    (store.folder / shard_name(rows, data)).write_bytes(data)
    return shard_name(rows, data)


@dataclass(frozen=True)
class ScriptedLauncher:
    script: Script
    store: Store

    def start(self, *_: Job, listener: Listener, **__: Any) -> Worker:
        self.script.starts += 1
        return ScriptedWorker(self.script, self.store, listener)


def stage(
    folder: Path, script: Script, pieces: Sequence[Range], *, replicas: int = 1,
    on_row_error: str = "skip", done_before: int = 0,
) -> Computation:  # fmt: skip
    (folder / "shards").mkdir(parents=True)
    total = pieces[-1].stop
    store = Store(
        folder=folder / "shards", fingerprint="f" * 32,
        ids=pa.array([f"row {row}" for row in range(total)]),
    )  # fmt: skip
    context = SimpleNamespace(
        launcher=ScriptedLauncher(script, store),
        deadline=Deadline(seconds=None),
        observer=Silent(),
        devices=visible(ScriptedProbe(lambda _: ()), {}),
    )
    return Computation(
        context=cast(Context, context),
        name="gemma",
        job=Job(kind="stage", name="gemma", parent=1),
        store=store,
        work=np.ones(total, dtype=np.int64),
        schedule=Schedule.of(pieces),
        replicas=[Replica(number=number, gpus=()) for number in range(replicas)],
        logs=folder / "logs",
        budgets=Budgets(
            path=folder / "budgets.json", devices=context.devices, first=None, may_change=True
        ),
        on_row_error=on_row_error,
        stall_timeout=60,
        load_timeout=60,
        loads_at_once=replicas,
        done_before=done_before,
    )


def outcome(computation: Computation) -> tuple[set[int], set[int]]:
    """Positions with a result, and with an error, of shards that leave nothing out."""
    fine, errors = set(), set()
    for shard in computation.store.shards():
        valid = shard.table.column("error").is_valid().to_pylist()
        for row, has_error in zip(range(*shard.rows), valid, strict=True):
            (errors if has_error else fine).add(row)
    assert not fine & errors
    return fine, errors


def run(computation: Computation) -> tuple[set[int], set[int]]:
    computation.run()
    assert computation.schedule.finished
    assert all(replica.worker is None for replica in computation.replicas)
    return outcome(computation)


@st.composite
def trouble(draw: st.DrawFn) -> tuple[list[Range], Script, int]:
    """At most as many bad rows as it takes to blame the rows, of all kinds and anywhere."""
    pieces = cut(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12)))
    rows = list(range(pieces[-1].stop))
    bad = draw(st.lists(st.sampled_from(rows), max_size=MOST_POISON, unique=True))
    kinds = [draw(st.sampled_from(["kills", "raises", "too_large", "rots"])) for _ in bad]
    found: dict[str, set[int]] = defaultdict(set)
    for row, kind in zip(bad, kinds, strict=True):
        found[kind].add(row)
    script = Script(**cast(dict[str, Any], found), batch=draw(st.integers(1, 50)))
    return pieces, script, draw(st.integers(1, 3))


@given(trouble())
@example((cut([25] * 8), Script(too_large=set(range(10))), 1))
@example((cut([25] * 8), Script(kills={0, 1, 2}), 1))
@example((cut([25] * 8), Script(kills={0, 1, 2}), 3))
@example((cut([25] * 10), Script(kills=set(range(3, 250, 25))), 1))
def test_a_few_bad_rows_cost_themselves_alone_whatever_they_do_and_wherever_they_lie(
    given_: tuple[list[Range], Script, int],
) -> None:
    pieces, script, replicas = given_
    bad = script.kills | script.raises | script.too_large | script.rots
    assume(len(bad) <= 0.05 * pieces[-1].stop)  # else it may well not be the rows
    with tempfile.TemporaryDirectory() as folder:
        fine, errors = run(stage(Path(folder), script, pieces, replicas=replicas))
    assert errors == bad
    assert fine == set(range(pieces[-1].stop)) - bad
    assert max(script.tries.values()) <= ATTEMPTS


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.5, 1.0]))
def test_workers_that_die_at_random_lose_no_row_and_blame_none(
    seed: int, death: float, after_rename: float
) -> None:
    script = Script(dice=random.Random(seed), death=death, after_rename=after_rename)
    with tempfile.TemporaryDirectory() as folder:
        computation = stage(Path(folder), script, cut([10] * 12), replicas=2, on_row_error="error")
        try:
            fine, errors = run(computation)
        except StageFailedError:  # a streak: what is done stays, and another run goes on
            assert death > 0
            return
    assert (fine, errors) == (set(range(120)), set())


def test_a_file_that_has_its_name_counts_though_its_worker_died_before_it_could_say_so(
    tmp_path: Path,
) -> None:
    script = Script(after_rename=1.0)
    computation = stage(tmp_path, script, cut([10] * 12))
    assert run(computation) == (set(range(120)), set())
    assert set(script.tries.values()) == {1} and script.starts == 12
    assert computation.totals.computed == 120 and not computation.schedule.num_retries


def test_under_the_policy_error_bad_rows_stay_without_a_result_and_the_others_have_theirs(
    tmp_path: Path,
) -> None:
    script = Script(kills={3}, raises={44})
    computation = stage(tmp_path, script, cut([10] * 12), on_row_error="error")
    fine, errors = run(computation)
    assert set(computation.schedule.poison) == {3, 44} and not errors
    assert fine == set(range(120)) - {3, 44}


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("kind", ["kills", "raises", "too_large", "rots"])
@pytest.mark.parametrize("pieces", [[10] * 24, [300], [1] * 30, [5000] * 4])
def test_a_stage_in_which_every_row_fails_ends_after_few_starts(
    tmp_path: Path, pieces: list[int], kind: str, replicas: int
) -> None:
    rows = set(range(sum(pieces)))
    script = Script(**{kind: rows})
    computation = stage(tmp_path, script, cut(pieces), replicas=replicas)
    with pytest.raises(StageFailedError, match=r"it is not the rows|workers in a row") as error:
        computation.run()
    assert "\n" not in str(error.value)
    assert script.starts <= 2 * MOST_POISON + 2 * replicas, script.starts
    assert script.tries.total() <= 4 * MOST_POISON, script.tries.total()


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_workers_that_never_load_are_not_started_for_ever(tmp_path: Path, replicas: int) -> None:
    script = Script(loads=False)
    with pytest.raises(StageFailedError, match="in a row ended while they started") as error:
        stage(tmp_path, script, cut([10] * 100), replicas=replicas).run()
    assert "the last line" in str(error.value)
    assert ATTEMPTS * replicas < script.starts <= (ATTEMPTS + 1) * replicas


def test_bad_rows_that_alone_are_left_are_skipped_however_many_they_are(tmp_path: Path) -> None:
    """A run that stopped over twelve rows goes on when it is told to skip them."""
    pieces = [Range(row, row + 1) for row in range(5, 605, 50)]
    script = Script(kills={row.start for row in pieces})
    computation = stage(tmp_path, script, [*pieces, Range(999, 1000)][:-1], done_before=988)
    computation.store = Store(
        folder=computation.store.folder, fingerprint=computation.store.fingerprint,
        ids=pa.array([f"row {row}" for row in range(1000)]),
    )  # fmt: skip
    computation.run()
    assert set(computation.schedule.poison) == script.kills
    assert outcome(computation)[1] == script.kills


def test_more_bad_rows_than_a_part_of_all_are_not_the_rows_fault(tmp_path: Path) -> None:
    script = Script(raises=set(range(0, 240, 10)), batch=1)
    with pytest.raises(StageFailedError, match=r"1[1-3] rows failed, so it is not the rows"):
        stage(tmp_path, script, cut([10] * 24)).run()


def test_a_driver_that_was_stopped_does_not_blame_its_workers(tmp_path: Path) -> None:
    """What they said meanwhile lies in the pipe: only time in which it was looked at counts."""
    computation = stage(tmp_path, Script(), cut([10]))
    (replica,) = computation.replicas
    worker = ScriptedWorker(Script(), computation.store, lambda _: None)
    replica.worker, replica.state = worker, "busy"
    now = time.monotonic()
    replica.since, computation._looked = now - 100, now - 90
    computation._look_at_times()
    assert worker.alive and replica.silent_seconds == pytest.approx(10, abs=1)
    replica.since = now - 61
    computation._look_at_times()
    assert not worker.alive and replica.verdict == "it showed no progress for 61 s, so it was ended"
