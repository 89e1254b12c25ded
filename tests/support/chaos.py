"""Runs that are killed, starved and misled, and the laws that each of them must keep.

Every process is real: drivers are ``willfit run`` in a process of their own, workers are what they
start. What happens to them is in `tests.support.chaos_scenarios`.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.runner.shards.ranges import disjoint, gaps
from willfit.runner.shards.store import range_of

ROOT: Final = Path(__file__).resolve().parents[2]
RUN: Final = "WILLFIT_CHAOS"
"""Environment variable that every process of a case inherits, so that none is overlooked."""
STAGES: Final = ("one", "two")
REPLICAS: Final = 2

CODE: Final = '''
import hashlib
import os

import numpy as np

def scores(rows, salt):
    """Numbers that depend on a row alone, whatever rows are beside it."""
    texts = [(salt + row["text"]).encode() for row in rows]
    digests = b"".join(hashlib.blake2b(text, digest_size=12).digest() for text in texts)
    return np.frombuffer(digests, np.uint32).reshape(-1, 3) / np.float32(2**31)

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
FUNCTIONS: Final = "  one: {run: 'stage.py:first'}\n  two: {run: 'stage.py:second', labels: 3}\n"


@dataclass(kw_only=True)
class Case:
    """A pipeline in a folder of its own, and the processes that came of it."""

    folder: Path
    faults: str = ""
    """`WILLFIT_FAULTS` of the workers; each batch is traced besides. Those at points strike without
    end, or as often as `hand_out_tickets` says."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pipeline(self) -> Path:
        return self.folder / "p.yaml"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def output(self) -> Path:
        return self.folder / "out.csv"

    @property
    def tickets(self) -> Path:
        return self.folder / "tickets"

    @property
    def num_rows(self) -> int:
        return int(pq.read_metadata(self.folder / "data.parquet").num_rows)

    # ---- drivers

    def start(self, strike: str = "", **more: Any) -> subprocess.Popen[bytes]:
        """A driver, which ends itself at a point if one is named."""
        tickets = f"tickets:{self.tickets}" if self.tickets.is_dir() else ""
        faults = (f"trace:{self.folder / 'trace.txt'}", tickets, self.faults)
        environ = {
            **os.environ, RUN: self.mark, "WILLFIT_FAULTS": ";".join(filter(None, faults)),
            "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
        }  # fmt: skip
        command = ["-m", "tests.support.chaos_driver", str(self.pipeline), str(self.run_dir)]
        with (self.folder / "driver.txt").open("ab") as output:
            driver = subprocess.Popen(
                [sys.executable, *command, strike], cwd=self.folder, env=environ,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, **more,
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
        """Run until a driver ends well; returns how many ended with exit code 5 before."""
        for count in range(most):
            code, said = self.run()
            if code == 0:
                return count
            assert code == 5, said
        raise AssertionError(f"{most} runs were not enough:\n{said}")

    def hand_out_tickets(self, count: int) -> None:
        """Let faults at points strike so often."""
        self.tickets.mkdir(exist_ok=True)
        for number in range(count):
            (self.tickets / f"{number}").touch()

    @property
    def num_tickets(self) -> int:
        return len(list(self.tickets.iterdir()))

    def wait_for(self, condition: Callable[[], object], patience: float = 60) -> None:
        """Return when something has come about."""
        began = time.monotonic()
        while not condition():
            said = (self.folder / "driver.txt").read_text()
            assert time.monotonic() - began < patience, f"it does not come about: {said}"
            time.sleep(0.02)

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
        """Workers of living drivers."""
        found = []
        for driver in self.drivers:
            if driver.poll() is None:
                with contextlib.suppress(psutil.Error):
                    found += psutil.Process(driver.pid).children()
        return [process for process in found if _is_worker(process)]

    def seconds_until_empty(self, patience: float = 20) -> float:
        """How long it takes until nothing of the case lives."""
        began = time.monotonic()
        while left := self.processes():
            seconds = time.monotonic() - began
            assert seconds < patience, f"orphans after {seconds:.0f} s: {list(map(_line, left))}"
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
        trace = self.folder / "trace.txt"
        lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
        return [int(count) for name, count, *_ in lines if name == stage]

    def rows(self) -> list[list[str]]:
        """The output's rows, without its head."""
        with self.output.open(newline="") as file:
            return list(csv.reader(file))[1:]


def write_case(
    folder: Path, *, rows: int = 120, shards: int = 12, replicas: int = REPLICAS,
    defaults: str = "", stages: str = FUNCTIONS, ensemble: str = "", top: str = "", code: str = "",
    faults: str = "",
) -> Case:  # fmt: skip
    """Two stages over some rows, averaged; functions, so that a worker starts in half a second.

    ``defaults``, ``ensemble`` and ``top``: further settings of the stages, of the ensemble and of
    the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"row {number} " + "x " * (number * 7 % 31) for number in range(rows)]
    table = pa.table({"id": [f"id{number:05d}" for number in range(rows)], "text": texts})
    pq.write_table(table, folder / "data.parquet")
    (folder / "stage.py").write_text(CODE + code)
    common = f"shards: {shards}, replicas: {replicas}, device: cpu"
    (folder / "p.yaml").write_text(
        f"data: data.parquet\n{top}\n"
        f"defaults: {{{', '.join(filter(None, (common, defaults)))}}}\n"
        f"stages:\n{stages}"
        f"ensemble: {{{', '.join(filter(None, ('weights: {one: 2, two: 1}', ensemble)))}}}\n"
        "output: out.csv\n"
    )
    return Case(folder=folder, faults=faults)


@contextlib.contextmanager
def chaos(folder: Path, **settings: Any) -> Iterator[Case]:
    """A case that leaves no process behind."""
    case = write_case(folder, **settings)
    try:
        yield case
    finally:
        case.end()


def models(folder: Path) -> dict[str, str]:
    """Settings of a case with a Gemma-2 and a Llama classifier, made in ``folder``."""
    from tests.support.classifiers import classifier

    gemma, llama = (classifier(family, folder) for family in ("gemma2", "llama"))
    return {
        "stages": f"  one: {{model: {gemma}}}\n  two: {{model: {llama}, columns: [1, 0, 2]}}\n",
        "defaults": "template: '{text}', labels: 3, max_length: 64, dtype: float32",
    }


# ---- laws


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What may be begun again: W·D + K + R shards.

    A driver that dies loses at most the shard that each of its W replicas has under way, a worker
    that dies the one that it has, and a try that fails for another reason is made again.
    """

    drivers: int = 0
    """D: drivers that died, or ended before they were done."""
    workers: int = 0
    """K: workers that died."""
    failures: int = 0
    """R: other tries that failed."""

    @property
    def shards(self) -> int:
        return REPLICAS * self.drivers + self.workers + self.failures


def check_laws(case: Case, clean: bytes, bound: Bound | None = None) -> int:
    """Everything that holds after a run, whatever happened in it; returns shards begun again."""
    assert case.output.read_bytes() == clean
    return check_apart_from_values(case, bound)


def check_apart_from_values(case: Case, bound: Bound | None = None) -> int:
    """The same where the values are not all those of a clean run."""
    case.seconds_until_empty()
    check_ids(case)
    check_cover(case)
    check_leftovers(case)
    return check_begun_again(case, bound)


def check_ids(case: Case) -> None:
    """Every row once, in the order of the data."""
    given = pq.read_table(case.folder / "data.parquet").column("id").to_pylist()
    assert [row[0] for row in case.rows()] == given


def check_cover(case: Case) -> None:
    """Shards of each stage that leave nothing out, and none that another makes superfluous."""
    for folder in case.run_dir.glob("stages/*/*/shards"):
        ranges = [found for path in folder.iterdir() if (found := range_of(path))]
        assert gaps(disjoint(ranges), case.num_rows) == [], folder


def check_leftovers(case: Case) -> None:
    """No unfinished file, no job of a worker that is gone."""
    assert [*case.folder.rglob(".tmp-*"), *case.run_dir.glob("jobs/*")] == []


def check_begun_again(case: Case, bound: Bound | None) -> int:
    """Shards that were begun and are not those that count; holds where a shard is one batch."""
    total = 0
    for stage in STAGES:
        batches = case.batches(stage)
        again = sum(batches) - case.num_rows
        assert again >= 0, f"a row of {stage} was never computed"
        if bound is not None:
            assert again <= max(batches) * bound.shards, (stage, again, max(batches), bound)
        total += len(batches) - len(case.shards(stage))
    assert bound is None or total <= bound.shards, (total, bound)
    return total


def largest_difference(case: Case, clean: bytes) -> float:
    """Between an output and the clean one, row by row."""
    expected = [row.split(",") for row in clean.decode().splitlines()[1:]]
    pairs = zip(case.rows(), expected, strict=True)
    return max(abs(float(a) - float(b)) for row, other in pairs for a, b in zip(row[1:], other[1:], strict=True))  # fmt: skip


def _is_worker(process: Any) -> bool:
    """Not a child that is still the driver's copy, on its way to become one."""
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and "willfit.worker" in process.cmdline()
    return False


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
    pause: float
    """Mean seconds between two kills."""
    driver_share: float = 0.4
    """Part of the kills that are drivers'."""
    worker_kills: int = 0
    driver_kills: int = 0
    own_ends: int = 0
    """Drivers that ended with exit code 5, since too many of their workers were killed."""
    slowest_end: float = 0.0
    """Most seconds from a driver's death to that of the last process below it."""

    @property
    def kills(self) -> int:
        return self.worker_kills + self.driver_kills

    @property
    def bound(self) -> Bound:
        return Bound(drivers=self.driver_kills + self.own_ends, workers=self.worker_kills)

    def blow(self, most: int) -> None:
        """Kill at most so many times; the last driver ends well."""
        driver = self.case.start()
        while True:
            wait = self.dice.expovariate(1 / self.pause) if self.kills < most else 120
            try:
                code = driver.wait(wait)
            except subprocess.TimeoutExpired:
                assert self.kills < most, "the run does not end"
                driver = self._strike(driver)
                continue
            if code == 0:
                return
            assert code == 5, (self.case.folder / "driver.txt").read_text()
            self.own_ends += 1
            driver = self.case.start()

    def _strike(self, driver: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """The driver that runs afterwards."""
        if self.dice.random() >= self.driver_share:
            self._kill_worker()
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


# ---- broken files


def broken_copies(data: bytes, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """A Parquet file cut and flipped in every region: magic, pages, footer, its length, magic."""
    size = len(data)
    footer = size - 8 - int.from_bytes(data[-8:-4], "little")
    regions = {
        "head": (0, 4), "pages": (4, footer), "footer": (footer, size - 8),
        "length of the footer": (size - 8, size - 4), "tail": (size - 4, size),
    }  # fmt: skip
    for name, (start, stop) in regions.items():
        at = dice.randrange(start, stop)
        flipped = bytes([data[at] ^ 1 << dice.randrange(8)])
        yield f"bit flipped in {name}", data[:at] + flipped + data[at + 1 :]
        yield f"cut in {name}", data[:at]
    yield "empty", b""
    yield "longer", data + b"\0"
    yield "zeros", bytes(size)
