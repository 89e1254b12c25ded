"""What happens to a run in the chaos tests and in `benchmarks.chaos`: one function each.

Every function makes a case in the folder that it is given, does its worst, checks the laws of
`tests.support.chaos`, and returns what it did. Expected is the output of a run that nothing
happened to (``clean``).
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.chaos import (
    REPLICAS,
    WITH_CHILD,
    Bound,
    Case,
    Storm,
    broken_copies,
    chaos,
    check_apart_from_values,
    check_laws,
    largest_difference,
)

from willfit.worker.faults import OOM_TEXTS

WORKER_POINTS: Final = ("loading", "before-compute", "after-compute", "after-tmp", "after-rename")
BUDGET_DIFFERENCE: Final = 1e-6
"""Most that a probability may differ where batches were smaller: float32 sums in another order."""

BUSY: Final = 2.0
"""Seconds by which a short deadline may be missed on a busy machine: of 4 s, 0.4 s are kept for the
end of it all, of hours half a minute."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was done, and what had to be done again."""

    driver_kills: int = 0
    worker_kills: int = 0
    again: int = 0
    """Shards begun again."""
    bound: int = 0
    """As many as may be."""
    difference: float = 0.0
    """Largest difference to the clean output."""
    slowest_end: float = 0.0
    """Most seconds until nothing lived below a driver that was killed."""
    note: str = ""


def clean_run(folder: Path, **settings: Any) -> bytes:
    """The output of a run that nothing happens to."""
    with chaos(folder, **settings) as case:
        code, said = case.run()
        assert code == 0, said
        check_laws(case, case.output.read_bytes(), Bound())
        return case.output.read_bytes()


def one_sentence(said: str) -> str:
    """What a run that failed printed: one line, and no traceback."""
    lines = said.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("willfit: "), said
    return lines[0]


def report(case: Case) -> Mapping[str, Any]:
    """The first stage's part of the report."""
    found: Mapping[str, Any] = json.loads((case.run_dir / "report.json").read_text())["stages"][0]
    return found


def notes(case: Case) -> list[str]:
    """Sentences that a person saw."""
    found: list[str] = json.loads((case.run_dir / "progress.json").read_text())["notes"]
    return found


# ---- kills


def drivers_killed_at(
    folder: Path, clean: bytes, strikes: Sequence[str], **settings: Any
) -> Outcome:
    """One run whose drivers are killed at one point after another, each where the last stopped."""
    with chaos(folder, **settings) as case:
        slowest = 0.0
        for strike in strikes:
            code, said = case.run(strike)
            assert code == -signal.SIGKILL, (strike, code, said)
            slowest = max(slowest, case.seconds_until_empty())
        code, said = case.run()
        assert code == 0, said
        bound = Bound(drivers=len(strikes))
        again = check_laws(case, clean, bound)
    return Outcome(driver_kills=len(strikes), again=again, bound=bound.shards, slowest_end=slowest)


def workers_killed_at(
    folder: Path, clean: bytes, points: Sequence[str], kills: int, chance: float = 1.0,
    **settings: Any,
) -> Outcome:  # fmt: skip
    """Workers that end themselves at some points, so many times."""
    faults = ";".join(f"kill@{point}:{chance}" for point in points)
    with chaos(folder, faults=faults, **settings) as case:
        case.hand_out_tickets(kills)
        ends = case.until_done()
        done = kills - case.num_tickets
        bound = Bound(drivers=ends, workers=done)
        again = check_laws(case, clean, bound)
    return Outcome(worker_kills=done, again=again, bound=bound.shards)


def storm(
    folder: Path, clean: bytes, dice: random.Random, kills: int, *, pause: float = 1.0,
    slow: float = 0.2, **settings: Any,
) -> Outcome:  # fmt: skip
    """Workers and drivers killed at random times."""
    with chaos(folder, faults=f"slow:{slow}", **settings) as case:
        blown = Storm(case=case, dice=dice, pause=pause)
        blown.blow(kills)
        again = check_laws(case, clean, blown.bound)
    return Outcome(
        driver_kills=blown.driver_kills, worker_kills=blown.worker_kills, again=again,
        bound=blown.bound.shards, slowest_end=blown.slowest_end,
        note="a driver gave up by itself" if blown.own_ends else "",
    )  # fmt: skip


def _computing(case: Case) -> bool:
    return len(case.batches("one")) >= REPLICAS


def killed_together(folder: Path, clean: bytes) -> Outcome:
    """Driver and workers at once, so that nobody is left to end what runs below the workers."""
    with chaos(folder, faults="slow:0.2", code=WITH_CHILD) as case:
        driver = case.start()
        case.wait_for(lambda: _computing(case))
        driver.send_signal(signal.SIGSTOP)
        workers = case.workers()
        for worker in workers:
            worker.kill()
        driver.kill()
        driver.wait()
        left = len(case.processes())
        assert left >= len(workers), "the children of the workers are still there"
        code, said = case.run()
        assert code == 0, said
        bound = Bound(drivers=1, workers=len(workers))
        again = check_laws(case, clean, bound)
    return Outcome(
        driver_kills=1, worker_kills=len(workers), again=again, bound=bound.shards,
        note=f"{left} orphans were met by the next driver, which ended them",
    )  # fmt: skip


def orphans_that_are_stopped(folder: Path, clean: bytes) -> Outcome:
    """Workers that cannot notice that their driver is gone: the next one ends them."""
    with chaos(folder, faults="slow:0.2") as case:
        driver = case.start()
        case.wait_for(lambda: _computing(case))
        workers = case.workers()
        for worker in workers:
            worker.suspend()
        driver.kill()
        driver.wait()
        assert len(case.processes()) >= len(workers)
        code, said = case.run()
        assert code == 0, said
        bound = Bound(drivers=1)
        again = check_laws(case, clean, bound)
    return Outcome(driver_kills=1, again=again, bound=bound.shards)


def driver_that_is_stopped(folder: Path, clean: bytes, seconds: float = 9.0) -> Outcome:
    """For longer than the stall timeout: its workers have done nothing wrong."""
    with chaos(folder, faults="slow:0.3", defaults="stall_timeout: 6") as case:
        driver = case.start()
        case.wait_for(lambda: _computing(case))
        driver.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        driver.send_signal(signal.SIGCONT)
        assert driver.wait(120) == 0
        again = check_laws(case, clean, Bound())
        assert report(case)["workers_started"] == REPLICAS
    return Outcome(again=again, note=f"stopped for {seconds:g} s, stall_timeout 6 s")


def interrupted(folder: Path, clean: bytes, number: signal.Signals, code: int) -> Outcome:
    """Ctrl-C, a batch system's SIGTERM, a terminal that closes: nothing lives on."""

    def as_in_a_terminal() -> None:
        signal.signal(number, signal.SIG_DFL)  # a shell's background jobs ignore some

    with chaos(folder, faults="slow:0.2", code=WITH_CHILD) as case:
        driver = case.start(preexec_fn=as_in_a_terminal)
        case.wait_for(lambda: _computing(case))
        driver.send_signal(number)
        assert driver.wait(60) == code
        slowest = case.seconds_until_empty()
        code, said = case.run()
        assert code == 0, said
        bound = Bound(drivers=1)
        again = check_laws(case, clean, bound)
    return Outcome(again=again, bound=bound.shards, slowest_end=slowest, note=number.name)


def two_drivers(folder: Path, clean: bytes) -> Outcome:
    """The second is refused in a sentence that names the first, which does not notice."""
    with chaos(folder, faults="slow:0.3") as case:
        first = case.start()
        case.wait_for(lambda: _computing(case))
        code, said = case.run()
        assert first.poll() is None, "the first had ended"
        assert code == 1 and f"in use by process {first.pid}" in one_sentence(said), said
        assert first.wait(120) == 0
        again = check_laws(case, clean, Bound())
    return Outcome(again=again)


# ---- files


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """A disk of so many KiB in a folder; raises PermissionError where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "willfit-chaos", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        raise PermissionError("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _remount(folder: Path, options: str) -> None:
    """A process that is on its way out may keep the disk busy for a moment."""
    command = ["mount", "-o", f"remount,{options}", str(folder)]
    for _ in range(50):
        if not subprocess.run(command, capture_output=True).returncode:
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder} cannot be mounted with {options}")


def full_disk(folder: Path, clean: bytes, kib: int) -> Outcome:
    """The run's folder is on a disk of so many KiB; then it grows, and the run goes on."""
    with chaos(folder) as case, small_disk(case.run_dir, kib):
        code, said = case.run()
        assert code == 5 and "free some space" in one_sentence(said), said
        case.seconds_until_empty()
        kept = len(case.shards("one")) + len(case.shards("two"))
        where = one_sentence(said).partition(" (")[0].rpartition("/")[2][:24]
        _remount(case.run_dir, "size=8m")
        code, said = case.run()
        assert code == 0, said
        bound = Bound(drivers=1)
        again = check_laws(case, clean, bound)
    return Outcome(
        again=again, bound=bound.shards,
        note=f"{kib} KiB: at {where}, {kept} shards kept",
    )  # fmt: skip


def full_at_a_shard(folder: Path, clean: bytes) -> Outcome:
    """The disk is full when a worker writes, as `full@` has it: for where nothing can be mounted."""
    with chaos(folder, faults="full@after-tmp:1") as case:
        case.hand_out_tickets(1)
        code, said = case.run()
        assert code == 5 and "No space left" in one_sentence(said), said
        code, said = case.run()
        assert code == 0, said
        bound = Bound(drivers=1)
        again = check_laws(case, clean, bound)
    return Outcome(again=again, bound=bound.shards)


def files_that_may_not_grow(folder: Path, clean: bytes) -> Outcome:
    """A limit on the size of files (``ulimit -f``) that the prepared rows are above."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    with chaos(folder) as case:
        code, said = case.run(preexec_fn=limit)
        assert code == 5 and "File too large" in one_sentence(said), said
        code, said = case.run()
        assert code == 0, said
        again = check_laws(case, clean, Bound())
    return Outcome(again=again)


def read_only(folder: Path, clean: bytes, strikes: Sequence[str] = ("", "validated#3")) -> Outcome:
    """The run's folder may not be written to, from the start or from when a driver was killed."""
    with chaos(folder) as case, small_disk(case.run_dir, 8192):
        for strike in strikes:
            if strike:
                assert case.run(strike)[0] == -signal.SIGKILL
                case.seconds_until_empty()
            _remount(case.run_dir, "ro")
            code, said = case.run()
            assert code == 5 and "Read-only file system" in one_sentence(said), said
            assert not case.processes()
            _remount(case.run_dir, "rw")
        assert case.run()[0] == 0
        bound = Bound(drivers=sum(map(bool, strikes)))
        again = check_laws(case, clean, bound)
    return Outcome(driver_kills=bound.drivers, again=again, bound=bound.shards)


def broken_shards(folder: Path, clean: bytes, dice: random.Random) -> Outcome:
    """Shards cut and flipped in every region, another one's bytes, and one that is gone."""
    with chaos(folder) as case:
        assert case.run()[0] == 0
        paths = [*case.shards("one"), *case.shards("two")]
        damages = list(broken_copies(paths[0].read_bytes(), dice))
        other = paths[-1].read_bytes()
        for path, (kind, _) in zip(
            paths, [*damages, ("another's", b""), ("gone", b"")], strict=False
        ):
            data = dict(broken_copies(path.read_bytes(), dice)).get(kind, other)
            path.unlink() if kind == "gone" else path.write_bytes(data)
        case.output.unlink()
        code, said = case.run()
        assert code == 0, said
        bound = Bound(failures=len(damages) + 2)
        again = check_laws(case, clean, bound)
        assert again == bound.shards, "each of them was computed again, and no other"
        told = [note for note in notes(case) if "is computed again" in note]
        assert len(told) == len(damages) + 1 or len(told) >= 18, told  # the last 20 are kept
    return Outcome(again=again, bound=bound.shards, note=f"{len(damages) + 2} kinds of damage")


def broken_others(folder: Path, clean: bytes) -> Outcome:
    """Every file of the run but the shards, empty, cut, or not what it says."""
    again = 0
    for data in (b"", b"{", b"\xff\xfe", b"[]", b'{"pid": "x", "digest": 1, "cpu": "many"}'):
        with chaos(folder) as case:
            if not case.run_dir.exists():
                assert case.run()[0] == 0
            others = [path for path in case.run_dir.rglob("*") if path.is_file()]
            for path in others:
                if path.suffix != ".parquet":
                    path.write_bytes(data)
            code, said = case.run()
            assert code == 0, (data, said)
            again = check_laws(case, clean, Bound())
    return Outcome(again=again)


# ---- rows


def bad_rows(
    folder: Path, clean: bytes, faults: Mapping[str, Sequence[int]], policy: str = "skip"
) -> Outcome:
    """Rows that kill, raise or do not fit, in the first stage: they alone are without its result."""
    bad = sorted({row for rows in faults.values() for row in rows})
    text = ";".join(f"{kind}:id{row:05d}" for kind, rows in faults.items() for row in rows)
    with chaos(
        folder, faults=f"only:one;{text}", defaults=f"on_row_error: {policy}",
        ensemble="missing: available",
    ) as case:  # fmt: skip
        code, said = case.run()
        assert code == (0 if policy == "skip" else 5), said
        if policy == "error":
            assert f"{len(bad)} of 120 rows cannot be computed" in one_sentence(said), said
        case.seconds_until_empty()
        expected = clean.decode().splitlines()[1:]
        found = case.output.read_text().splitlines()[1:]
        differ = [
            row for row, pair in enumerate(zip(found, expected, strict=True)) if len(set(pair)) > 1
        ]
        assert differ == bad, (differ, bad)
        part = report(case)
        if policy == "skip":
            assert set(part["failures"]) == {f"id{row:05d}" for row in bad}
            check_apart_from_values(case)
        again = len(case.batches("one")) - len(case.shards("one"))
    started = f", {part['workers_started']} workers started" if policy == "skip" else ""
    return Outcome(again=again, note=f"{len(bad)} bad{started}")


def every_row_fails(folder: Path, fault: str, most_starts: int) -> Outcome:
    """It is not the rows: the run ends soon, with a sentence."""
    with chaos(folder, faults=fault) as case:
        started = time.monotonic()
        code, said = case.run()
        seconds = time.monotonic() - started
        assert code == 5 and " in a row" in one_sentence(said), said
        case.seconds_until_empty()
        logs = case.run_dir.glob("stages/one/*/logs/*.txt")
        assert len(list(logs)) <= REPLICAS
        begun = len(case.batches("one"))
        assert begun <= most_starts, begun
    return Outcome(again=begun, bound=most_starts, note=f"{seconds:.0f} s: {_shortened(said)}")


def _shortened(said: str) -> str:
    return (
        one_sentence(said).removeprefix("willfit: stage one: ").partition(";")[0].partition(",")[0]
    )


# ---- workers that misbehave


def exits_137(folder: Path, clean: bytes) -> Outcome:
    """As a container ends a process that took too much memory: the note says so."""
    with chaos(folder, faults="exit=137@after-compute:1") as case:
        case.hand_out_tickets(2)
        code, said = case.run()
        assert code == 0, said
        told = [note for note in notes(case) if "137" in note]
        assert len(told) == 2 and all("RAM" in note for note in told), told
        bound = Bound(workers=2)
        again = check_laws(case, clean, bound)
    return Outcome(again=again, bound=bound.shards)


def hangs(folder: Path, clean: bytes, point: str, setting: str) -> Outcome:
    """A worker that does nothing any more is replaced."""
    with chaos(folder, faults=f"hang@{point}:1", defaults=setting) as case:
        case.hand_out_tickets(2)
        code, said = case.run()
        assert code == 0, said
        told = [note for note in notes(case) if "so it was ended" in note]
        assert len(told) >= 2, notes(case)
        bound = Bound(workers=len(told))
        again = check_laws(case, clean, bound)
    return Outcome(again=again, bound=bound.shards)


def dead_context(folder: Path, clean: bytes) -> Outcome:
    """A CUDA error that is no lack of memory: the process is given up, another goes on."""
    with chaos(folder, faults="cuda@before-compute:1") as case:
        case.hand_out_tickets(2)
        code, said = case.run()
        assert code == 0, said
        bound = Bound(workers=2)
        again = check_laws(case, clean, bound)
    return Outcome(again=again, bound=bound.shards)


def out_of_memory(
    folder: Path, clean: bytes, number: int, *, tokens: int, **settings: Any
) -> Outcome:
    """Each message of running out of memory: smaller batches, the same values, no new process."""
    with chaos(folder, faults=f"oom:{tokens}:{number}", **settings) as case:
        code, said = case.run()
        assert code == 0, said
        part = report(case)
        assert part["out_of_memory"] > 0 and part["workers_started"] == REPLICAS
        assert part["retries"] == 0
        check_apart_from_values(case)
        difference = largest_difference(case, clean)
        assert difference <= BUDGET_DIFFERENCE, difference
    text = OOM_TEXTS[number].splitlines()[0][:50]
    return Outcome(difference=difference, note=f"{part['out_of_memory']} times “{text}”")


# ---- time


def deadline(folder: Path, *, seconds: float, faults: str, missing: str) -> Outcome:
    """A file is written in time, whatever is not done by then."""
    with chaos(
        folder, faults=faults, top=f"deadline: {seconds}", ensemble=f"missing: {missing}"
    ) as case:
        code, said = case.run()
        path = case.output if missing == "available" else case.folder / "partial-out.csv"
        assert code == (0 if missing == "available" else 5), said
        if missing == "error":
            assert "partial-out.csv" in one_sentence(said) and not case.output.exists()
        case.seconds_until_empty()
        lines = path.read_text().splitlines()
        assert [line.partition(",")[0] for line in lines[1:]] == [f"id{n:05d}" for n in range(120)]
        began = json.loads((case.run_dir / "run.json").read_text())["began"]
        late = path.stat().st_mtime - began - seconds
        assert late <= BUSY, f"{late:.2f} s too late"
        done = sum(line.count("0.3333333333333333") < 3 for line in lines[1:])
    return Outcome(note=f"{seconds:g} s, {done} of 120 rows done, {-late:.1f} s to spare")


def deadline_then_on(folder: Path, clean: bytes) -> Outcome:
    """What a deadline cut short goes on with a later one."""
    with chaos(folder, faults="slow:0.4", top="deadline: 4", ensemble="missing: error") as case:
        assert case.run()[0] == 5
        pipeline = case.pipeline.read_text()
        case.pipeline.write_text(pipeline.replace("deadline: 4", ""))
        case.faults = ""
        (case.folder / "partial-out.csv").unlink()
        assert case.run()[0] == 0
        bound = Bound(drivers=1)
        again = check_laws(case, clean, bound)
    return Outcome(again=again, bound=bound.shards)
