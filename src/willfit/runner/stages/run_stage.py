"""A stage that is ready, computed: workers, shards, memory back, report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import psutil  # type: ignore[import-untyped]  # it has no stubs

from willfit.errors import StageFailedError
from willfit.runner.atomic import write_json
from willfit.runner.batching import padded_in_order
from willfit.runner.context import Context
from willfit.runner.gpus import Sampler
from willfit.runner.ingredients import Gathered
from willfit.runner.observer import StageProgress
from willfit.runner.protocol import Job
from willfit.runner.release import Contract, Release
from willfit.runner.result import Forecast, StageReport
from willfit.runner.schedule import Schedule
from willfit.runner.shards import Range, Store
from willfit.runner.stages.budgets import Budgets
from willfit.runner.stages.compute import Computation, check_storage
from willfit.runner.stages.ready import Ready
from willfit.runner.stages.rows import settings_of

ROOM: Final = 0.8
"""Part of the free host memory that models which load at the same time may take."""
LAST_PATIENCE: Final = 10.0
"""Seconds to wait for memory when time is out: a third of what is kept for the end."""
SHOWN: Final = 20
"""Failed rows that a report names."""


def run_stage(ready: Ready, context: Context) -> StageReport:
    """Compute what is missing of a stage, and see its memory back.

    Raises `StageFailedError` where it fails, `GpuNotReleasedError` where memory does not come back;
    what was computed is kept in each case.
    """
    if not ready.missing:
        return _kept(ready)
    return _Computing(ready=ready, context=context, began=time.monotonic()).run()


def without_end(ready: Ready, error: StageFailedError) -> StageReport:
    """The report of a stage that failed: how much of it is there."""
    return StageReport(
        name=ready.name,
        fingerprint=ready.gathered.fingerprint,
        num_rows=ready.store.num_rows,
        num_missing=sum(rows.size for rows in ready.store.missing()),
        remarks=(str(error),),
    )


def _kept(ready: Ready) -> StageReport:
    failures = _failures(ready.store)
    return StageReport(
        name=ready.name,
        fingerprint=ready.gathered.fingerprint,
        num_rows=ready.store.num_rows,
        num_failed=len(failures),
        failures=dict(list(failures.items())[:SHOWN]),
    )


def _failures(store: Store) -> dict[str, str]:
    """Errors by id: those stand alone in their shards."""
    found: dict[str, str] = {}
    for path in sorted(store.folder.glob("*.parquet")):
        start, _, rest = path.name.partition("-")
        if int(rest.partition(".")[0]) - int(start) != 1:
            continue
        table = getattr(store.read(path), "table", None)
        if table is not None and table.column("error")[0].is_valid:
            found[str(table.column("id")[0].as_py())] = str(table.column("error")[0].as_py())
    return found


@dataclass(frozen=True, kw_only=True)
class _Computing:
    """The part of a stage that needs workers."""

    ready: Ready
    context: Context
    began: float

    def run(self) -> StageReport:
        """Compute, release, report."""
        check_storage(self.ready.folder.shards)
        schedule = Schedule.of(self.ready.shards())
        computation = self._computation(schedule)
        with Sampler(probe=self.context.probe) as sampler:
            try:
                computation.run()
            finally:
                released = self._release(sampler)
        report = self._report(computation, released)
        self._require(schedule, report)
        return report

    def _computation(self, schedule: Schedule) -> Computation:
        ready, stage = self.ready, self.ready.stage
        tokens = stage.batch_tokens if isinstance(stage.batch_tokens, int) else None
        job = Job(
            kind="stage",
            name=ready.name,
            stage=settings_of(stage, ready.gathered),
            fingerprint=ready.gathered.fingerprint,
            rows=str(self.context.folder.prepared(ready.gathered.key)),
            results=str(ready.folder.shards),
            parent=self.context.parent,
            batch_tokens=tokens if tokens is not None else ready.foreseen.batch_tokens,
            batch_size=stage.batch_size,
            context=ready.sizes().longest,
            seed=self.context.seed,
            returns_bytes=not self.context.shares_folder,
        )
        return Computation(
            context=self.context,
            name=ready.name,
            job=job,
            store=ready.store,
            work=ready.rows.work(),
            schedule=schedule,
            replicas=ready.replicas(),
            logs=ready.folder.logs,
            budgets=Budgets(
                path=ready.folder.budgets,
                devices=self.context.devices,
                first=job.batch_tokens,
                may_change=tokens is None,
            ),
            on_row_error=stage.on_row_error,
            stall_timeout=stage.stall_timeout,
            load_timeout=stage.load_timeout,
            loads_at_once=_loads_at_once(
                ready.foreseen, len(ready.placed), self.context.devices.host_free_bytes
            ),
            done_before=ready.rows.num_rows - ready.num_missing,
        )

    def _release(self, sampler: Sampler) -> Release:
        """The memory's return; what went with its node cannot be measured, nor used again."""
        devices = self.context.devices
        there = [gpu for gpu in self.ready.gpus if gpu not in devices.lost]
        numbers = [devices.nvml_index[gpu] for gpu in there]
        self.context.observer.progress(StageProgress(name=self.ready.name, phase="releasing"))
        released = self._contract().wait(numbers, sampler.highest)
        write_json(self.ready.folder.released, released.json())
        return released

    def _contract(self) -> Contract:
        """With less patience where the deadline is near: the file has to be written in time."""
        contract, remaining = self.context.contract, self.context.deadline.remaining
        return replace(contract, patience=min(contract.patience, max(LAST_PATIENCE, remaining)))

    def _report(self, computation: Computation, released: Release) -> StageReport:
        ready, totals, schedule = self.ready, computation.totals, computation.schedule
        poison = {
            str(ready.store.ids[position].as_py()): why for position, why in schedule.poison.items()
        }
        left = sum(rows.size for rows in ready.store.missing())
        foreseen = ready.foreseen
        report = StageReport(
            name=ready.name,
            fingerprint=ready.gathered.fingerprint,
            num_rows=ready.rows.num_rows,
            num_computed=totals.computed,
            num_failed=len(poison),
            num_missing=left - (len(poison) if ready.stage.on_row_error == "error" else 0),
            failures=dict(list(poison.items())[:SHOWN]),
            reasons=ready.reasons,
            seconds=time.monotonic() - self.began,
            start_seconds=totals.start_seconds + (totals.began - self.began),
            tokens=totals.tokens,
            padded_tokens=totals.padded_tokens,
            in_order_padded_tokens=self._in_order(computation),
            num_retries=schedule.num_retries,
            num_ooms=totals.ooms,
            num_starts=totals.starts,
            reserved_bytes=totals.reserved,
            host_bytes=totals.host,
            forecast=foreseen,
            release=released,
            remarks=(*foreseen.remarks, *_read_how(ready.gathered), *totals.remarks),
        )
        write_json(ready.folder.done, report.json())
        return report

    def _in_order(self, computation: Computation) -> int:
        """What padding would have cost in the data's own order, with the budget that was used."""
        rows, stage = self.ready.rows, self.ready.stage
        whole = computation.totals.computed == rows.num_rows
        if stage.run is not None or not whole:
            return 0
        back = np.argsort(rows.numbers(), kind="stable")
        lengths, sequences = rows.sizes(Range(0, rows.num_rows))
        budget = computation.budgets.last
        extra = int(stage.max_new_tokens or 0) if stage.task == "generate" else 0
        return padded_in_order(lengths[back] + extra, sequences[back], budget, stage.batch_size)

    def _require(self, schedule: Schedule, report: StageReport) -> None:
        """Every row has its result, or its error where the user accepts that, or time ran out."""
        if self.ready.stage.on_row_error == "error" and schedule.poison:
            rows = ", ".join(list(report.failures)[:5])
            raise StageFailedError(
                f"stage {report.name}: {report.num_failed} of {report.num_rows:,} rows cannot be "
                f"computed ({rows}): {next(iter(report.failures.values()))[:200]}; the others are "
                "kept; mend those rows, or set on_row_error: skip"
            )
        if report.num_missing and math.isinf(self.context.deadline.remaining):
            raise StageFailedError(
                f"stage {report.name}: {report.num_missing:,} rows are missing though every shard "
                "was reported done: run the same command again"
            )


def _loads_at_once(foreseen: Forecast, replicas: int, free_bytes: int | None) -> int:
    """On one machine: one after another where its memory would not hold them all.

    ``free_bytes``: of a machine that is not this one.
    """
    if foreseen.host_bytes is None:
        return replicas
    free = ROOM * (psutil.virtual_memory().available if free_bytes is None else free_bytes)
    return max(1, min(replicas, int(free // max(1, foreseen.host_bytes))))


def _read_how(gathered: Gathered) -> tuple[str, ...]:
    if gathered.how != "quick":
        return ()
    return (
        "large files of the model were told apart by samples of their bytes, since their folder "
        "cannot be written to",
    )
