"""The loop of a stage: replicas start, take shards, fall and start again until all is there."""

from __future__ import annotations

import base64
import math
import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from willfit.errors import InputError, StageFailedError
from willfit.runner.atomic import remove_stale, write_bytes, write_json
from willfit.runner.context import Context
from willfit.runner.ending import host_kills, why_ended
from willfit.runner.observer import StageProgress
from willfit.runner.processes import Ended, PlaceLostError, Said
from willfit.runner.protocol import (
    Fatal,
    Heartbeat,
    Job,
    Loaded,
    OutOfMemory,
    Progress,
    ShardDone,
    ShardFailed,
    Take,
)
from willfit.runner.replica import Replica
from willfit.runner.schedule import Schedule
from willfit.runner.shards import Broken, Range, Store
from willfit.runner.stages.budgets import Budgets
from willfit.runner.stages.single import refused
from willfit.runner.stages.totals import Totals

TICK: Final = 0.5
"""Seconds after which times are looked at although nothing happened."""
STOOD_STILL: Final = 5.0
"""Seconds between two looks from which on it was the driver that was stopped, not its workers."""
MOST_POISON: Final = 10
"""Rows that may fail before it counts whether they are more than a part of all."""
POISON_SHARE: Final = 0.05
"""Part of the rows that may fail: more, and it is not the rows' fault."""


class _Item(NamedTuple):
    replica: int
    generation: int
    said: Said


@dataclass(kw_only=True)
class Computation:
    """One stage under way."""

    context: Context
    name: str
    job: Job
    """What every worker of the stage is told, but for its GPUs."""
    store: Store
    work: npt.NDArray[np.int64]
    """Tokens by position."""
    schedule: Schedule
    replicas: list[Replica]
    logs: Path
    budgets: Budgets
    on_row_error: str
    stall_timeout: float
    load_timeout: float
    loads_at_once: int
    done_before: int = 0
    """Rows that were there when the stage began."""
    totals: Totals = field(default_factory=Totals)
    falls: int = 0
    """Workers that ended without a shard being committed in between."""
    failing: str = ""
    """Why the last of them ended."""
    unloaded: int = 0
    """Workers that ended before they had the model, in a row."""
    in_vain: set[Range] = field(default_factory=set)
    """What failed since a shard was last committed."""
    out_of_time: bool = False
    _items: queue.SimpleQueue[_Item] = field(default_factory=queue.SimpleQueue)
    _told: float = 0.0
    _looked: float = field(default_factory=time.monotonic)
    _buried: set[int] = field(default_factory=set)
    _lost: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Return when nothing is pending, or time is out; raises where the stage fails.

        Whatever happens, no worker is left when it returns.
        """
        grace = 0.0
        try:
            while not self._over():
                self._start_due()
                self._hand_out()
                self._next()
                self._look_at_times()
                self._tell()
            grace = 10.0
        finally:
            self._end_all(grace)
            remove_stale(self.store.folder)  # of workers that died while they wrote

    def _over(self) -> bool:
        if self.schedule.finished:
            return True
        if not self.out_of_time and not self._time_for_another():
            self.out_of_time = True
        if not self.out_of_time:
            return False
        return not self.schedule.in_flight or self.context.deadline.remaining <= 0

    def _time_for_another(self) -> bool:
        if not self.schedule.pending:
            return self.context.deadline.remaining > 0
        start, stop = self.schedule.pending[0]
        expected = float(self.work[start:stop].sum()) * self.totals.seconds_per_token
        return self.context.deadline.allows(expected)

    # ---- workers start and end

    def _start_due(self) -> None:
        """Start replicas while there is more to do than living ones that wait for it."""
        node = self.context.devices.node
        for replica in self.replicas:
            waiting = [r for r in self.replicas if r.state in ("loading", "ready")]
            loading = sum(
                r.state == "loading" and node(r.gpus) == node(replica.gpus) for r in self.replicas
            )
            wanted = len(self.schedule.pending) > len(waiting) and not self.out_of_time
            if replica.state == "absent" and wanted and loading < self.loads_at_once:
                self._start(replica)

    def _start(self, replica: Replica) -> None:
        replica.generation += 1
        generation, number = replica.generation, replica.number

        def listener(said: Said) -> None:
            self._items.put(_Item(number, generation, said))

        names = [self.context.devices.names[gpu] for gpu in replica.gpus]
        replica.kills_before = host_kills()
        job = self.job.model_copy(
            update={"gpus": len(names), "batch_tokens": self.budgets.of(replica)}
        )
        try:
            replica.worker = self.context.launcher.start(
                job, devices=",".join(names), log=self._log(replica), listener=listener
            )
        except PlaceLostError as error:
            self._leave_idle(replica, error)
            return
        replica.state, replica.rows, replica.done = "loading", None, 0
        replica.verdict, replica.loaded = "", False
        replica.alive()
        self.totals.starts += 1

    def _leave_idle(self, replica: Replica, error: PlaceLostError) -> None:
        """What it would have computed is for the others; raises where none is left."""
        replica.state = "gone"
        if all(other.state == "gone" for other in self.replicas):
            raise StageFailedError(
                f"stage {self.name}: {error}, and no other node is left to compute on: bring nodes "
                "back and run the same command again, what is computed is kept"
            )
        self._tell_lost(str(error))

    def _tell_lost(self, what: str) -> None:
        """Once of each node."""
        if what not in self._lost:
            self._lost.add(what)
            self.context.observer.note(f"{self.name}: {what}, the others go on without it")

    def _log(self, replica: Replica) -> Path:
        return self.logs / f"worker-{replica.number}.txt"

    def _end_all(self, grace: float) -> None:
        """Those that wait may leave by themselves; what others are at is wanted no more."""
        threads = [
            threading.Thread(
                target=replica.worker.end, args=(grace if replica.state == "ready" else 0.0,)
            )
            for replica in self.replicas
            if replica.worker is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for replica in self.replicas:
            replica.worker, replica.state = None, "absent"

    # ---- shards go out and come back

    def _hand_out(self) -> None:
        for replica in self.replicas:
            if replica.state != "ready" or self.out_of_time or not self._time_for_another():
                continue
            rows = self.schedule.take()
            if rows is None:
                return
            assert replica.worker is not None
            replica.rows, replica.done, replica.state = rows, 0, "busy"
            replica.alive()
            if not replica.worker.send(Take(start=rows.start, stop=rows.stop)):
                self.schedule.give_back(rows)
                replica.rows, replica.state = None, "loading"  # until its end is told

    def _next(self) -> None:
        """Take in what was said, without waiting once something was."""
        wait: float | None = min(TICK, max(0.01, self.context.deadline.remaining))
        while True:
            try:
                item = self._items.get(timeout=wait) if wait else self._items.get_nowait()
            except queue.Empty:
                return
            wait = None
            replica = self.replicas[item.replica]
            if item.generation == replica.generation:
                self._take_in(replica, item.said)

    def _take_in(self, replica: Replica, said: Said) -> None:
        if isinstance(said, Heartbeat):
            self.totals.host = max(self.totals.host, said.host)
            return
        replica.alive()
        if isinstance(said, Loaded):
            replica.state, replica.loaded, self.unloaded = "ready", True, 0
            self.totals.loaded(said)
        elif isinstance(said, Progress):
            replica.done = said.done
        elif isinstance(said, ShardDone):
            self._committed(replica, said)
        elif isinstance(said, ShardFailed):
            self._failed(replica, said)
        elif isinstance(said, OutOfMemory):
            self.totals.ooms += 1
            self.context.observer.note(
                f"{self.name}: a batch of {said.before:,} tokens did not fit, on with "
                f"{said.after:,} ({said.message[:100]})"
            )
        elif isinstance(said, Fatal):
            raise refused(self.name, said, self._log(replica))
        elif isinstance(said, Ended):
            self._ended(replica, said)

    def _committed(self, replica: Replica, said: ShardDone) -> None:
        rows = Range(said.start, said.stop)
        replica.rows, replica.state, replica.done = None, "ready", 0
        path = self.store.folder / said.file
        if said.data:
            write_bytes(path, base64.b64decode(said.data))
        shard = self.store.read(path)
        if isinstance(shard, Broken):
            why = f"its file is not what was written: {shard.reason}"
            path.unlink(missing_ok=True)
            self.schedule.failed(rows, why)
            self._failed_again(rows, why)
            return
        self.totals.shard(said)
        self._done(rows)
        self.budgets.keep(replica, said.batch_tokens)

    def _done(self, rows: Range) -> None:
        self.schedule.done(rows)
        self.falls = 0
        self.in_vain.clear()

    def _failed(self, replica: Replica, said: ShardFailed) -> None:
        rows, suspect = Range(said.start, said.stop), Range(said.first, said.last)
        replica.rows, replica.done = None, 0
        replica.state = "loading" if said.leaves else "ready"
        self.schedule.failed(rows, said.reason, suspect)
        self.context.observer.note(f"{self.name}: rows {suspect} failed: {said.reason[:200]}")
        self._failed_again(suspect, said.reason)

    def _ended(self, replica: Replica, said: Ended) -> None:
        """A worker is gone: its shard goes back, and another takes its place."""
        why = replica.verdict or said.why or why_ended(said, replica.kills_before)
        rows, replica.rows, replica.worker = replica.rows, None, None
        replica.state = "absent"
        if said.lost:
            self._tell_lost(why)
            if rows is not None:
                self.schedule.give_back(rows)
            return
        self.falls += 1
        self.unloaded += not replica.loaded
        self.failing = why
        if "RAM" in why or "memory" in why:
            self.loads_at_once = 1
        self.context.observer.note(
            f"{self.name}: the worker on {replica.word().partition(':')[0]} ended: {why}"
        )
        if rows is not None and self.store.find(rows) is not None:
            self.totals.computed += rows.size  # it ended between its file's name and its event
            self._done(rows)
        elif rows is not None:
            self.schedule.failed(rows, why)
            self._failed_again(rows, why)
        self._give_up(replica)

    def _give_up(self, replica: Replica) -> None:
        """Raise where workers fall, and it cannot be a row that they fall on."""
        early = self.unloaded > self.schedule.attempts * len(self.replicas)
        if early or self.falls > self._most_falls():
            count = self.unloaded if early else self.falls
            what = "while they started" if early else "before a shard was done"
            raise StageFailedError(
                f"stage {self.name}: {count} workers in a row ended {what}; the last: "
                f"{self.failing}; its output is in {self._log(replica)}"
            )

    def _most_falls(self) -> int:
        """As many as finding one bad row may take, for each replica."""
        largest = max((rows.size for rows in self.schedule.pending), default=1)
        search = self.schedule.attempts + math.ceil(math.log2(largest + 1)) + 2
        return search * max(1, len(self.replicas)) + self.schedule.attempts

    # ---- rows that cannot be computed

    def _failed_again(self, rows: Range, why: str) -> None:
        """Raise where different rows fail one after another and none was ever done."""
        self.in_vain.add(rows)
        parts = sum(rows.size > 1 for rows in self.in_vain)
        alone = len(self.in_vain) - parts
        ever = self.done_before or self.schedule.num_done
        if not ever and (parts > 2 * self.schedule.attempts or alone > MOST_POISON):
            raise StageFailedError(
                f"stage {self.name}: different rows failed {len(self.in_vain)} times in a row and "
                f"none was done, so it is not the rows: {why[:300]}; the workers' output is in "
                f"{self.logs}"
            )
        self._bury()

    def _bury(self) -> None:
        """What to do with rows that failed for good."""
        poison = self.schedule.poison
        for position in [p for p in poison if p not in self._buried]:
            self._buried.add(position)
            self.falls = 0
            if self.on_row_error == "skip":
                tokens = int(self.work[position])
                self.store.put_error(position, tokens, poison[position], self.totals.versions)
        many = len(poison) > MOST_POISON and len(poison) > POISON_SHARE * self.store.num_rows
        ever = self.done_before or self.totals.computed
        nothing = len(poison) >= self.schedule.attempts and not ever
        if many or nothing:
            raise StageFailedError(
                f"stage {self.name}: {len(poison)} rows failed, so it is not the rows: "
                f"{next(iter(poison.values()))[:300]}; the workers' output is in {self.logs}"
            )

    # ---- times, progress

    def _look_at_times(self) -> None:
        """End workers that show nothing for too long; their end is then told like any other."""
        before, self._looked = self._looked, time.monotonic()
        for replica in self.replicas:
            if self._looked - before > STOOD_STILL:  # what they said meanwhile is not all read
                replica.since = min(self._looked, replica.since + self._looked - before)
            limit = {"busy": self.stall_timeout, "loading": self.load_timeout}.get(replica.state)
            if replica.worker is None or limit is None or replica.silent_seconds < limit:
                continue
            what = "loading took" if replica.state == "loading" else "it showed no progress for"
            replica.verdict = f"{what} {replica.silent_seconds:.0f} s, so it was ended"
            replica.worker.end(0.0)
            replica.alive()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < 1.0:
            return
        self._told = now
        self.context.observer.progress(self._progress())

    def _progress(self) -> StageProgress:
        under_way = sum(replica.done for replica in self.replicas)
        left = sum(int(self.work[a:b].sum()) for a, b in self.schedule.pending)
        rate = self.totals.tokens_per_second
        remaining = self.context.deadline.remaining
        loading = all(replica.state in ("loading", "absent") for replica in self.replicas)
        return StageProgress(
            name=self.name,
            phase="loading" if loading else "computing",
            done=self.done_before + self.schedule.num_done + under_way,
            rows=self.store.num_rows,
            tokens_per_second=rate,
            eta_seconds=left / rate if rate > 0 else None,
            replicas=tuple(replica.word() for replica in self.replicas),
            remaining_seconds=None if math.isinf(remaining) else remaining,
        )


def check_storage(folder: Path) -> None:
    """That results can be written at all, before a model is loaded for them."""
    try:
        write_json(folder / "writable.json", {})
        (folder / "writable.json").unlink()
    except InputError as error:
        raise StageFailedError(str(error)) from error
