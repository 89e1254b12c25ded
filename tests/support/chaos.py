"""Runs that are killed, starved and misled, and the laws that each of them must keep.

Every process is real: drivers are ``willfit run`` in a process of their own, workers are what they
start. A driver can be told to end itself with SIGKILL at a named point::

    python -m tests.support.chaos PIPELINE RUN_DIR [before:done.json | after:run.json | …]

``before:NAME`` and ``after:NAME`` are the moments about the rename that makes a file of that name
appear; ``started``, ``taken``, ``validated`` and ``stage-ended`` are a worker's start, a shard
given out, a shard found true, and the end of a stage.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).resolve().parents[2]
RUN: Final = "WILLFIT_CHAOS"
"""Environment variable that every process of a case inherits, so that none is overlooked."""
SHARDS: Final = 12
FILES: Final = (
    "run.json", "rows.arrow", "rows.json", "stage.json", "writable.json", "progress.json",
    "released.json", "done.json", "out.csv", "out.csv.json", "report.json",
)  # fmt: skip
"""What a driver (``rows``: a worker for it) writes, in about that order."""
POINTS: Final = ("started", "taken", "validated", "stage-ended")
WRITTEN_BY_DRIVER: Final = tuple(name for name in FILES if not name.startswith("rows"))
DRIVER_POINTS: Final = (
    *(f"{side}:{name}" for name in WRITTEN_BY_DRIVER for side in ("before", "after")),
    *POINTS,
)
WORKER_POINTS: Final = ("loading", "before-compute", "after-compute", "after-tmp", "after-rename")

STAGE: Final = '''
import hashlib

import numpy as np

def scores(rows, salt):
    """Numbers that depend on a row alone, whatever rows are beside it."""
    digests = [hashlib.blake2b((salt + row["text"]).encode(), digest_size=12).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint32).reshape(-1, 3) / np.float32(2**31)

def first(rows):
    return scores(rows, "first")

def second(rows):
    return scores(rows, "second")
'''
WITH_CHILD: Final = '''
import subprocess
import sys

def load():
    """What an inference engine does: processes of its own, in a session of their own."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
'''


@dataclass(kw_only=True)
class Case:
    """A pipeline in a folder of its own, and the processes that came of it."""

    folder: Path
    faults: str = ""
    """`WILLFIT_FAULTS` of the workers; each batch is traced besides."""
    run_dir: Path = Path()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run_dir = self.folder / "run"

    @property
    def pipeline(self) -> Path:
        return self.folder / "p.yaml"

    @property
    def output(self) -> Path:
        return self.folder / "out.csv"

    @property
    def trace(self) -> Path:
        return self.folder / "trace.txt"

    @property
    def tickets(self) -> Path:
        return self.folder / "tickets"

    # ---- drivers

    def start(self, strike: str = "", **more: Any) -> subprocess.Popen[bytes]:
        """A driver, which ends itself at a point if one is named."""
        faults = ";".join(filter(None, (f"trace:{self.trace}", self.faults)))
        environ = {
            **os.environ, RUN: self.mark, "WILLFIT_FAULTS": faults, "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
        }  # fmt: skip
        with (self.folder / "driver.txt").open("ab") as output:
            driver = subprocess.Popen(
                [sys.executable, "-m", "tests.support.chaos", str(self.pipeline),
                 str(self.run_dir), strike],
                cwd=self.folder, env=environ, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, **more,
            )  # fmt: skip
        self.drivers.append(driver)
        return driver

    def run(self, strike: str = "", timeout: float = 120, **more: Any) -> tuple[int, str]:
        """A driver to its end: its exit code, and what it printed."""
        log = self.folder / "driver.txt"
        before = log.stat().st_size if log.exists() else 0
        code = self.start(strike, **more).wait(timeout)
        with log.open("rb") as file:
            file.seek(before)
            return code, file.read().decode()

    def until_done(self, most: int = 20) -> int:
        """Run until a driver ends well; returns how many it took."""
        for count in range(1, most + 1):
            code, said = self.run()
            if code == 0:
                return count
            assert code in (5, -signal.SIGKILL), said
        raise AssertionError(f"{most} runs were not enough:\n{said}")

    def hand_out_tickets(self, count: int) -> None:
        """Let faults at points strike so often."""
        self.tickets.mkdir(exist_ok=True)
        for number in range(count):
            (self.tickets / f"{number}").touch()

    @property
    def tickets_left(self) -> int:
        return len(list(self.tickets.iterdir()))

    # ---- processes

    def processes(self) -> list[Any]:
        """Everything alive that came of this case, whatever its parent or session."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get(RUN) == self.mark:
                    found.append(process)
        return found

    def workers(self) -> list[Any]:
        """Children of living drivers."""
        found = []
        for driver in self.drivers:
            if driver.poll() is None:
                with contextlib.suppress(psutil.Error):
                    found += psutil.Process(driver.pid).children()
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def seconds_until_empty(self, patience: float = 20) -> float:
        """How long it takes until nothing of the case lives."""
        began = time.monotonic()
        while left := self.processes():
            seconds = time.monotonic() - began
            assert seconds < patience, f"orphans after {seconds:.0f} s: {[_line(p) for p in left]}"
            time.sleep(0.02)
        return time.monotonic() - began

    def end(self) -> None:
        """Leave nothing behind, whatever a test came to."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
                driver.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    # ---- files

    def shards(self, stage: str) -> list[Path]:
        """Files of a stage's results."""
        return sorted(self.run_dir.glob(f"stages/{stage}/*/shards/*.parquet"))

    def batches(self, stage: str) -> list[int]:
        """Number of rows of every batch of a stage that any worker began."""
        if not self.trace.exists():
            return []
        lines = [line.split() for line in self.trace.read_text().splitlines()]
        return [int(count) for name, count, *_ in lines if name == stage]

    @property
    def num_rows(self) -> int:
        return int(pq.read_metadata(self.folder / "data.parquet").num_rows)

    def rows(self) -> list[list[str]]:
        """The output's rows, without its head."""
        with self.output.open(newline="") as file:
            return list(csv.reader(file))[1:]


def write_case(
    folder: Path, *, rows: int = 240, shards: int = SHARDS, replicas: int = 2, extra: str = "",
    stage: str = "", ensemble: str = "", top: str = "", code: str = "",
) -> Case:  # fmt: skip
    """Two functions over some rows, averaged: no model, so that a worker starts in half a second.

    ``extra``: further defaults; ``stage``: further settings of the second stage; ``ensemble``:
    further settings of the ensemble; ``top``: further settings of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"row {number} " + "x" * (number * 7 % 31) for number in range(rows)]
    table = pa.table({"id": [f"id{number:05d}" for number in range(rows)], "text": texts})
    pq.write_table(table, folder / "data.parquet")
    (folder / "stage.py").write_text(STAGE + code)
    (folder / "p.yaml").write_text(
        f"data: data.parquet\n{top}\n"
        f"defaults: {{shards: {shards}, replicas: {replicas}, device: cpu{extra and ', ' + extra}}}\n"
        "stages:\n"
        "  one: {run: 'stage.py:first'}\n"
        f"  two: {{run: 'stage.py:second'{stage and ', ' + stage}}}\n"
        f"ensemble: {{weights: {{one: 2, two: 1}}{ensemble and ', ' + ensemble}}}\n"
        "output: out.csv\n"
    )
    return Case(folder=folder)


@contextlib.contextmanager
def chaos(folder: Path, **settings: Any) -> Iterator[Case]:
    """A case that leaves no process behind."""
    faults = settings.pop("faults", "")
    case = write_case(folder, **settings)
    case.faults = faults
    try:
        yield case
    finally:
        case.end()


# ---- laws


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What may be computed again: W·D + K + R shards.

    A driver that dies loses at most the shard that each of its W replicas has under way, a worker
    its one, and a failed try is a try that is made again.
    """

    replicas: int
    driver_kills: int = 0
    worker_kills: int = 0
    failures: int = 0

    @property
    def shards(self) -> int:
        return self.replicas * self.driver_kills + self.worker_kills + self.failures


def check_laws(case: Case, clean: bytes, bound: Bound | None = None) -> int:
    """Everything that holds after a run, whatever happened in it; returns shards recomputed."""
    case.seconds_until_empty()
    assert case.output.read_bytes() == clean
    check_ids(case)
    check_cover(case)
    check_leftovers(case)
    return check_recomputed(case, bound)


def check_ids(case: Case) -> None:
    """Every row once, in the order of the data."""
    ids = [row[0] for row in case.rows()]
    given = pq.read_table(case.folder / "data.parquet").column("id").to_pylist()
    assert ids == list(map(str, given))


def check_cover(case: Case) -> None:
    """Shards of each stage that are disjoint and leave nothing out."""
    from willfit.runner.shards.ranges import disjoint, gaps
    from willfit.runner.shards.store import range_of

    for folder in case.run_dir.glob("stages/*/*/shards"):
        ranges = [found for path in folder.iterdir() if (found := range_of(path))]
        assert gaps(disjoint(ranges), case.num_rows) == [], folder


def check_leftovers(case: Case) -> None:
    """No unfinished file, no job of a worker that is gone."""
    left = [*case.folder.rglob(".tmp-*"), *case.run_dir.glob("jobs/*")]
    assert left == []


def check_recomputed(case: Case, bound: Bound | None) -> int:
    """How many shards were begun and not the ones that count, and that these are as few as stated.

    Holds where a shard is one batch.
    """
    total = 0
    for stage in ("one", "two"):
        batches = case.batches(stage)
        again = sum(batches) - case.num_rows
        assert again >= 0, f"a row of {stage} was never computed"
        if bound is not None:
            assert again <= max(batches) * bound.shards, (stage, again, max(batches), bound)
        total += len(batches) - len(case.shards(stage))
    assert bound is None or total <= bound.shards, (total, bound)
    return total


def _line(process: Any) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} (parent {process.ppid()}) {' '.join(process.cmdline())[:160]}"
    return str(process.pid)


# ---- kills at random


@dataclass(kw_only=True)
class Storm:
    """SIGKILLs at random times, and then none until a run ends well."""

    case: Case
    dice: random.Random
    pause: float = 0.5
    """Mean seconds between two kills."""
    driver_share: float = 0.4
    worker_kills: int = 0
    driver_kills: int = 0
    own_ends: int = 0
    """Drivers that ended with exit code 5, since too many of their workers were killed."""
    slowest_end: float = 0.0
    """Most seconds from a driver's death to that of the last process below it."""

    def blow(self, most: int) -> None:
        """Kill at most so many times; the last driver ends well."""
        driver = self.case.start()
        while True:
            kills = self.worker_kills + self.driver_kills
            wait = self.dice.expovariate(1 / self.pause) if kills < most else 120
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = driver.wait(wait)
                if code == 0:
                    return
                said = (self.case.folder / "driver.txt").read_text()
                assert code == 5, said
                self.own_ends += 1
                driver = self.case.start()
                continue
            assert kills < most, "the run does not end"
            if self.dice.random() < self.driver_share:
                driver = self._kill_driver(driver)
            else:
                self._kill_worker()

    def _kill_driver(self, driver: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        if driver.poll() is not None:
            return driver
        driver.kill()
        if driver.wait() != -signal.SIGKILL:  # it had just ended
            return driver
        self.driver_kills += 1
        if self.dice.random() < 0.5:  # else the next driver meets the orphans
            self.slowest_end = max(self.slowest_end, self.case.seconds_until_empty())
        return self.case.start()

    def _kill_worker(self) -> None:
        """The next that there is."""
        began = time.monotonic()
        while not (workers := self.case.workers()):
            if time.monotonic() - began > 2:
                return
            time.sleep(0.01)
        with contextlib.suppress(psutil.Error):
            self.dice.choice(workers).kill()
            self.worker_kills += 1

    @property
    def bound(self) -> Bound:
        return Bound(
            replicas=2, driver_kills=self.driver_kills + self.own_ends,
            worker_kills=self.worker_kills,
        )  # fmt: skip


# ---- broken files


def broken_copies(data: bytes, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """A shard's bytes cut and flipped in every region: magic, pages, footer, its length, magic."""
    size = len(data)
    footer = size - 8 - int.from_bytes(data[-8:-4], "little")
    regions = {
        "head": (0, 4), "pages": (4, footer), "footer": (footer, size - 8),
        "length of the footer": (size - 8, size - 4), "tail": (size - 4, size),
    }  # fmt: skip
    for name, (start, stop) in regions.items():
        at = dice.randrange(start, stop)
        yield (
            f"bit of {name}",
            data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :],
        )
        yield f"cut in {name}", data[:at]
    yield "empty", b""
    yield "longer", data + b"\0"
    yield "zeros", bytes(size)


# ---- the driver


def main(argv: Sequence[str]) -> int:
    """``willfit run``, with a point at which it kills itself."""
    from willfit.cli.main import main as willfit

    pipeline, run_dir, strike = argv
    if strike:
        _arm(strike)
    return willfit(["run", pipeline, "--run-dir", run_dir, "--quiet"])


def _arm(strike: str) -> None:
    """Wrap what happens at the point; ``POINT#3`` strikes the third time."""
    point, _, number = strike.partition("#")
    count = itertools.count(1)

    def reached(name: str) -> None:
        if name == point and next(count) >= int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    from willfit.runner.atomic import Pending
    from willfit.runner.processes import LocalLauncher
    from willfit.runner.progress import Recording
    from willfit.runner.schedule import Schedule

    commit = Pending.commit

    def committing(self: Pending, final_name: str | None = None) -> Path:
        reached(f"before:{self.target.name}")
        path = commit(self, final_name)
        reached(f"after:{self.target.name}")
        return path

    Pending.commit = committing  # type: ignore[method-assign]
    wrapped: Mapping[str, tuple[Any, str]] = {
        "started": (LocalLauncher, "start"), "taken": (Schedule, "take"),
        "validated": (Schedule, "done"), "stage-ended": (Recording, "stage_ended"),
    }  # fmt: skip
    for name, (owner, method) in wrapped.items():
        setattr(owner, method, _then(getattr(owner, method), name, reached))


def _then(method: Callable[..., Any], name: str, reached: Callable[[str], None]) -> Any:
    def called(*arguments: Any, **keywords: Any) -> Any:
        if name == "validated":
            reached(name)  # the file is true, and nothing is noted yet
        result = method(*arguments, **keywords)
        reached(name)
        return result

    return called


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
