"""The run's folder: where everything lies, and the lock that only one driver holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from willfit.errors import InputError
from willfit.runner.atomic import cannot_write, remove_stale
from willfit.runner.processes import mark_of, sweep

LOCK_PATIENCE: Final = 20.0
"""Seconds to wait for the workers of a driver that died: they end when its pipe closes."""
ORPHAN_PATIENCE: Final = 3.0
"""Seconds after which those that have not, since they are stopped or stuck, are killed."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths below one folder."""

    path: Path

    @property
    def progress(self) -> Path:
        """What runs now, for `willfit status`."""
        return self.path / "progress.json"

    @property
    def report(self) -> Path:
        """What the last run came to."""
        return self.path / "report.json"

    @property
    def run(self) -> Path:
        """The pipeline as it was read, and when."""
        return self.path / "run.json"

    @property
    def digests(self) -> Path:
        """Digests of files that were read before."""
        return self.path / "digests.json"

    def prepared(self, key: str) -> Path:
        """The prepared rows of a key."""
        return self.path / "prepared" / key[:16] / "rows.arrow"

    def built(self, key: str) -> Path:
        """The data that ``prepare`` made."""
        return self.path / "prepared" / key[:16] / "data.parquet"

    def jobs(self) -> Path:
        """Job files of workers that run."""
        return self.path / "jobs"

    def stage(self, name: str, fingerprint: str) -> StageFolder:
        """The folder of a stage's results."""
        return StageFolder(path=self.path / "stages" / name / fingerprint[:16])

    def stages(self, name: str) -> list[StageFolder]:
        """Every folder of a stage's results, the latest first."""
        found = [path for path in (self.path / "stages" / name).glob("*") if path.is_dir()]
        return [StageFolder(path=p) for p in sorted(found, key=_age, reverse=True)]

    @contextlib.contextmanager
    def locked(self, patience: float = LOCK_PATIENCE) -> Iterator[int]:
        """Hold the run; yields the lock's descriptor, which workers inherit.

        The lock is free only when every process that inherited it is gone, so two drivers, or a
        driver and an orphan of another, never write at the same time. Raises `InputError` where
        another run has it, and where the folder cannot be written to.
        """
        descriptor = self._open()
        try:
            began = time.monotonic()
            while not _try_lock(descriptor):
                holder = _holder(descriptor)
                alive = holder is not None and _is_alive(int(holder["pid"]))
                waited = time.monotonic() - began
                if not alive and waited > ORPHAN_PATIENCE and self.jobs().is_dir():
                    sweep(mark_of(self.jobs()))
                if alive or waited > patience:
                    who = f"process {holder['pid']}" if holder else "another process"
                    raise InputError(
                        f"{self.path} is in use by {who}: wait until it is done (willfit status "
                        f"{self.path}), or end it; two runs never share a folder"
                    )
                time.sleep(0.1)
            self._claim(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _claim(self, descriptor: int) -> None:
        """Say who holds the run, and remove what processes that died have left."""
        holder = json.dumps({"pid": os.getpid(), "at": time.time()}).encode()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder, 0)
            self.jobs().mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path / "lock", error) from error
        sweep(mark_of(self.jobs()))
        for stale in self.jobs().glob("job-*.json"):
            stale.unlink(missing_ok=True)
        remove_stale(self.path)

    def _open(self) -> int:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(self.path / "lock", error) from error

    def is_locked(self) -> bool:
        """Whether a run holds the folder now."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class StageFolder:
    """Paths of one stage with one fingerprint."""

    path: Path

    @property
    def ingredients(self) -> Path:
        """What the fingerprint is made of."""
        return self.path / "stage.json"

    @property
    def shards(self) -> Path:
        """The results."""
        return self.path / "shards"

    @property
    def logs(self) -> Path:
        """What workers printed."""
        return self.path / "logs"

    @property
    def budgets(self) -> Path:
        """Batch budgets that were found, by GPU."""
        return self.path / "budgets.json"

    @property
    def done(self) -> Path:
        """The stage's report, once all of it is there."""
        return self.path / "done.json"

    @property
    def released(self) -> Path:
        """What the GPUs gave back."""
        return self.path / "released.json"


def _age(path: Path) -> float:
    try:
        return (path / "stage.json").stat().st_mtime
    except OSError:
        return 0.0


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> dict[str, Any] | None:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else None


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
