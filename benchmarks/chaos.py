"""What `willfit run` survives: hundreds of kills, full disks, broken files, workers that misbehave.

    python -m benchmarks.chaos [--kills 200] [--seed 1] [--only WORD] [--record docs/chaos.md]

Every run is of real processes. After each, the laws of `tests.support.chaos` are checked: the
output's bytes are those of a clean run, each row is there once, shards leave nothing out, no
process and no unfinished file is left, and no more was begun again than is stated. The first that
does not hold ends the benchmark. About 15 minutes on two cores; a small disk is mounted for some,
which takes root.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # it has no stubs
from tests.support import chaos_scenarios as happens
from tests.support.chaos import WITH_CHILD, models
from tests.support.chaos_driver import POINTS
from tests.support.chaos_scenarios import Outcome

from willfit.units import format_bytes
from willfit.worker.faults import OOM_TEXTS

IN_THE_SECOND_STAGE: Final = ("before:released.json", "after:done.json", "stage-ended")
INTERRUPTS: Final = (
    (signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, -signal.SIGHUP),
)  # fmt: skip
"""Signals, and the exit codes that they come to."""
EACH_WORKER_POINT: Final = 6
"""Kills at each of the workers' points."""
STORM_KILLS: Final = 20
"""Kills in one run, at most."""
MODEL_STORMS: Final = 3
DISKS_KIB: Final = (4, 8, 16, 24, 32, 40, 48, 56, 72, 88, 104)
EVERY_ROW: Final = ";".join(f"raise:id{row:05d}" for row in range(120))

Thunk = Callable[[Path], Outcome]


@dataclass(kw_only=True)
class Row:
    """A line of the record: outcomes of one kind, added up."""

    title: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Processes that got SIGKILL."""
        return sum(one.driver_kills + one.worker_kills for one in self.outcomes)

    def cells(self) -> tuple[str, ...]:
        """As the table has them."""
        all_of = self.outcomes
        return (
            self.title,
            str(len(all_of)),
            str(sum(one.driver_kills for one in all_of)),
            str(sum(one.worker_kills for one in all_of)),
            _of(sum(one.again for one in all_of), sum(one.bound for one in all_of)),
            f"{max(one.difference for one in all_of):.1g}",
            "; ".join(dict.fromkeys(one.note for one in all_of if one.note)),
        )


@dataclass(kw_only=True)
class Bench:
    """Kinds of trouble in their order, each with the cases that show it."""

    folder: Path
    kills: int
    dice: random.Random
    rows: list[Row] = field(default_factory=list)
    clean: bytes = b""

    def kinds(self) -> Iterator[tuple[str, Iterator[Thunk]]]:
        """Title and cases; the storms last until enough was killed."""
        yield "driver killed at each named point", self._driver_points()
        yield "workers killed at each named point", self._worker_points()
        yield "both at once, children below the workers", _once(self._with(happens.killed_together))
        yield (
            "driver killed, its workers stopped",
            (_once(self._with(happens.orphans_that_are_stopped))),
        )
        yield "models, killed at random", self._model_storms()
        yield "functions, killed at random", self._storms()
        yield "driver stopped and continued", _once(self._with(happens.driver_that_is_stopped))
        yield (
            "driver interrupted",
            (self._with(happens.interrupted, number, code) for number, code in INTERRUPTS),
        )
        yield "two drivers", _once(self._with(happens.two_drivers))
        yield "full disk", (self._with(happens.full_disk, kib) for kib in DISKS_KIB)
        yield "full disk, one write", _once(self._with(happens.full_at_a_shard))
        yield "limit on files", _once(self._with(happens.files_that_may_not_grow))
        yield "read-only folder", _once(self._with(happens.read_only))
        yield "broken shards", (self._with(happens.broken_shards, self._die()) for _ in range(3))
        yield "every other file broken", _once(self._with(happens.broken_others))
        yield "bad rows, skipped", self._bad_rows()
        yield (
            "bad rows, on_row_error: error",
            (_once(self._with(happens.bad_rows, {"raise": [0, 1, 77]}, "error"))),
        )
        yield "every row fails", self._every_row()
        yield "exit code 137", _once(self._with(happens.exits_137))
        yield "CUDA context dead", _once(self._with(happens.dead_context))
        yield "worker hangs", self._hangs()
        yield (
            "out of memory, functions",
            (
                self._with(happens.out_of_memory, number, tokens=6)
                for number in range(len(OOM_TEXTS))
            ),
        )
        yield "out of memory, models", self._model_ooms()
        yield "deadline", self._deadlines()

    def run(self, only: str) -> None:
        """All of it, a line each."""
        self.clean = happens.clean_run(self.folder / "clean")
        for title, cases in self.kinds():
            if only not in title:
                continue
            row = Row(title=title)
            self.rows.append(row)
            for case in cases:
                self._one(row, case)

    def _one(self, row: Row, case: Thunk) -> None:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            try:
                outcome = case(Path(folder) / "case")
            except PermissionError as error:
                outcome = Outcome(note=f"not run: {error}")
        row.outcomes.append(outcome)
        print(
            f"{row.title}: {outcome} ({time.monotonic() - began:.0f} s, "
            f"{self.num_kills} kills so far)",
            flush=True,
        )

    @property
    def num_kills(self) -> int:
        """Over all kinds."""
        return sum(row.kills for row in self.rows)

    def _with(self, scenario: Callable[..., Outcome], *more: object, **named: object) -> Thunk:
        return lambda folder: scenario(folder, self.clean, *more, **named)

    def _die(self) -> random.Random:
        return random.Random(self.dice.random())

    def _driver_points(self) -> Iterator[Thunk]:
        for strike in (*POINTS, *(f"{point}#2" for point in IN_THE_SECOND_STAGE)):
            yield self._with(happens.drivers_killed_at, [strike])
        yield self._with(happens.drivers_killed_at, ["validated"] * 6)

    def _worker_points(self) -> Iterator[Thunk]:
        for point in happens.WORKER_POINTS:
            yield self._with(happens.workers_killed_at, [point], EACH_WORKER_POINT)

    def _storms(self) -> Iterator[Thunk]:
        number = 0
        while self.num_kills < self.kills or number < 2:
            code = WITH_CHILD if number % 2 else ""
            yield self._with(happens.storm, self._die(), STORM_KILLS, code=code)
            number += 1

    def _model_storms(self) -> Iterator[Thunk]:
        settings = models(self.folder)
        clean = happens.clean_run(self.folder / "clean-models", **settings)
        for _ in range(MODEL_STORMS):
            dice = self._die()
            yield lambda folder, dice=dice: happens.storm(  # type: ignore[misc]
                folder, clean, dice, STORM_KILLS, pause=3.0, slow=0.5, **settings
            )

    def _model_ooms(self) -> Iterator[Thunk]:
        settings = models(self.folder)
        clean = happens.clean_run(self.folder / "clean-for-oom", **settings)
        for number in range(2):
            yield lambda folder, number=number: happens.out_of_memory(  # type: ignore[misc]
                folder, clean, number, tokens=150, **settings
            )

    def _bad_rows(self) -> Iterator[Thunk]:
        for faults in (
            {"poison": [33]}, {"poison": [0, 1, 119]}, {"raise": [0, 1, 2, 60]},
            {"row-oom": [0, 1, 2, 3, 60]}, {"poison": [7], "raise": [8, 90], "row-oom": [0, 91]},
        ):  # fmt: skip
            yield self._with(happens.bad_rows, faults)

    def _every_row(self) -> Iterator[Thunk]:
        for fault, most in (
            ("kill@before-compute:1", 0), ("exit=1@loading:1", 0), ("kill@after-compute:1", 14),
            (EVERY_ROW, 20),
        ):  # fmt: skip
            yield lambda folder, fault=fault, most=most: happens.every_row_fails(  # type: ignore[misc]
                folder, fault, most
            )

    def _hangs(self) -> Iterator[Thunk]:
        yield self._with(happens.hangs, "before-compute", "stall_timeout: 1.5")
        yield self._with(happens.hangs, "after-compute", "stall_timeout: 1.5")
        yield self._with(happens.hangs, "loading", "load_timeout: 3")

    def _deadlines(self) -> Iterator[Thunk]:
        for faults, missing in (
            ("slow:0.8", "available"), ("slow:0.8", "error"), ("hang@loading:1", "available"),
            ("hang@before-compute:1", "available"), ("stuck:id00055;stuck:id00115", "error"),
        ):  # fmt: skip
            yield lambda folder, faults=faults, missing=missing: happens.deadline(  # type: ignore[misc]
                folder, seconds=6, faults=faults, missing=missing
            )
        yield self._with(happens.deadline_then_on)


def _of(again: int, bound: int) -> str:
    return f"{again} of {bound}" if bound else str(again)


def _once(case: Thunk) -> Iterator[Thunk]:
    return iter((case,))


HEAD: Final = ("what happens", "runs", "drivers killed", "workers killed", "begun again",
               "largest difference", "notes")  # fmt: skip


def page(bench: Bench, seed: int, seconds: float) -> str:
    """The record, as `docs/chaos.md` has it."""
    rows = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in bench.rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    drivers = sum(one.driver_kills for row in bench.rows for one in row.outcomes)
    again = sum(one.again for row in bench.rows if row.kills for one in row.outcomes)
    bound = sum(one.bound for row in bench.rows if row.kills for one in row.outcomes)
    slowest = max(one.slowest_end for row in bench.rows for one in row.outcomes)
    return f"""# What a run survives

Written by `python -m benchmarks.chaos --kills {bench.kills} --seed {seed} --record docs/chaos.md`
on {datetime.datetime.now(datetime.timezone.utc).date()}:
{_machine()}.
It took {seconds / 60:.0f} minutes. `tests/test_run_chaos.py` is its short part.

**{bench.num_kills} processes got SIGKILL**, {drivers} of them drivers, at named points and at
random. After every run: the output's bytes are those of a clean run, every row is there once and in
its order, the shards of each stage leave nothing out, no process of the run lives and no unfinished
file lies anywhere. Where batches became smaller, probabilities differ by at most
{happens.BUDGET_DIFFERENCE:g}.

**Begun again: {again} shards, of at most {bound}.** The bound is W·D + K + R: a driver that dies
loses what each of its W replicas has under way (D: drivers that died or gave up), a worker that
dies its one shard (K), and a try that fails for another reason is made again (R). A shard whose
file has its name is never computed again, whoever dies next.

**No orphans**: the last process below a driver that was killed was gone after {slowest:.2f} s at
the latest. Where driver and workers die together, or workers are stopped, the next run of the
folder ends what is left before it begins.

{table}

Two stages of 120 rows in 12 shards, two replicas each. Functions return numbers that depend on a
row alone; models are tiny random Gemma-2 and Llama classifiers whose shards are one batch each.
Bad rows are begun again as often as it takes to find them; "every row fails" counts tries until the
run gives up, of at most so many. A driver gives up by itself (exit code 5, everything kept) where
more workers die in a row than bad rows explain.
"""


def _machine() -> str:
    cores, memory = os.cpu_count(), format_bytes(psutil.virtual_memory().total)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("pyarrow", "torch", "transformers")
    )
    return (
        f"{cores} CPU cores, {memory}, no GPU, {platform.system()}, Python "
        f"{platform.python_version()}, {versions}"
    )


def main() -> int:
    """Run it, and write the page if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="processes to kill at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="WORD", help="kinds whose title has it")
    parser.add_argument("--record", type=Path, metavar="PAGE", help="write the record there")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="willfit-chaos-", ignore_cleanup_errors=True) as folder:
        bench = Bench(
            folder=Path(folder), kills=arguments.kills, dice=random.Random(arguments.seed)
        )
        bench.run(arguments.only)
    print(f"{bench.num_kills} kills, every law held")
    if arguments.record is not None:
        arguments.record.write_text(page(bench, arguments.seed, time.monotonic() - began))
    return 0


if __name__ == "__main__":
    sys.exit(main())
