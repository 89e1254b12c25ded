"""A stage's worker: loads once, then computes the shards that it is given, batch by batch."""

from __future__ import annotations

import base64
import errno
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.installed import installed_versions
from willfit.runner.atomic import writing
from willfit.runner.batching import Budget, padded_tokens
from willfit.runner.prepared import PreparedRows, open_rows
from willfit.runner.protocol import (
    ROW_OOM,
    SOFTWARE,
    Fatal,
    Job,
    Loaded,
    OutOfMemory,
    Progress,
    ShardDone,
    ShardFailed,
    Take,
)
from willfit.runner.shards import Range, shard_bytes, shard_name
from willfit.worker.channel import Channel
from willfit.worker.faults import Faults
from willfit.worker.oom import is_dead_context, is_out_of_memory
from willfit.worker.tasks import task_of
from willfit.worker.tasks.task import Task

NO_PLACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Of a disk that is full: whatever a batch wanted to write or print, it is no row's fault."""
TELLS: Final = 1.0
"""Seconds between two events of progress."""
LIBRARIES: Final = (
    "willfit", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "vllm",
)  # fmt: skip


def serve(job: Job, channel: Channel) -> None:
    """Load the stage's model and compute what comes down the channel."""
    faults = Faults.from_environment(job.name)
    rows = open_rows(Path(job.rows))
    task = task_of(job, rows)
    began = time.monotonic()
    faults.at("loading")
    try:
        remarks = task.load()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.print_exc()
        channel.tell(Fatal(kind="memory", message=f"loading: {_said(error)}"))
        sys.exit(SOFTWARE)
    found = versions()
    channel.tell(
        Loaded(
            seconds=time.monotonic() - began, allocated=task.allocated(),
            host=channel.host_bytes(), versions=found, remarks=remarks,
        )
    )  # fmt: skip
    tokens = None if task.batches_itself else job.batch_tokens
    budget = Budget(tokens=tokens, most_rows=job.batch_size)
    loop = _Loop(job=job, channel=channel, rows=rows, task=task, faults=faults, budget=budget,
                 versions=found)  # fmt: skip
    for command in channel.commands():
        if isinstance(command, Take):
            loop.compute(command)
    task.close()


def versions() -> dict[str, str]:
    """Of the libraries that results depend on, those that are installed."""
    return installed_versions(LIBRARIES)


@dataclass(kw_only=True)
class _Loop:
    job: Job
    channel: Channel
    rows: PreparedRows
    task: Task
    faults: Faults
    budget: Budget
    versions: dict[str, str]
    told: float = field(default_factory=time.monotonic)
    host: int = 0

    def compute(self, take: Take) -> None:
        """One shard: its batches, its file, its event."""
        given = take.batch_tokens is not None and not self.task.batches_itself
        if given and self.budget.failed_at is None:
            self.budget.tokens = take.batch_tokens
        shard = Range(take.start, take.stop)
        began, done, parts, padded, fresh = time.monotonic(), 0, [], 0, 0
        while done < shard.size:
            at = Range(shard.start + done, shard.stop)
            table = self._batch(at, shard)
            if table is None:
                return
            if isinstance(table, int):  # memory ran out: the same rows with a smaller budget
                continue
            result, computed, new = table
            parts.append(result)
            done, padded, fresh = done + result.num_rows, padded + computed, fresh + new
            self._tell(done, padded)
        self.faults.at("after-compute")
        self._commit(
            shard, pa.concat_tables(parts, promote_options="permissive"), began, padded, fresh
        )

    def _batch(self, at: Range, shard: Range) -> tuple[pa.Table, int, int] | int | None:
        """A batch's rows, its padded tokens and its new ones; 0 to try again; None if it failed."""
        lengths, sequences = self.rows.sizes(at)
        extra = self.task.new_tokens
        count = self.budget.rows(lengths, sequences, extra)
        padded = padded_tokens(lengths[:count], sequences[:count], extra)
        rows = Range(at.start, at.start + count)
        try:
            batch = self.rows.table(rows)
            self.faults.at("before-compute")
            self.faults.batch(batch.column("#id").to_pylist(), padded)
            result = self.task.compute(batch)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_PLACE:
                self._no_place(error)
            memory, dead, reason = is_out_of_memory(error), is_dead_context(error), _said(error)
            if not memory:
                traceback.print_exc()
        else:
            self.budget.went_well(self.task.num_alloc_retries(), padded)
            return self._with_ids(batch, lengths[:count], sequences[:count], result), padded, (
                _new_tokens(result)
            )  # fmt: skip
        # outside of the except block: the exception's frames no longer hold the batch's tensors
        if not memory:
            kind: Any = "cuda" if dead else "error"
            self._failed(shard, rows, kind, reason, leaves=dead)
            if dead:
                sys.exit(SOFTWARE)
            return None
        self.task.free()
        if count == 1:
            self._failed(shard, rows, "row-oom", reason, leaves=True)
            sys.exit(ROW_OOM)
        before, after = self.budget.ran_out(padded)
        self.channel.tell(OutOfMemory(before=before, after=after, message=reason))
        return 0

    def _with_ids(
        self, batch: pa.Table, lengths: npt.NDArray[np.int32], sequences: npt.NDArray[np.int32],
        result: pa.Table,
    ) -> pa.Table:  # fmt: skip
        """The batch's results behind the columns that every shard has."""
        count = batch.num_rows
        if result.num_rows != count:
            raise InputError(
                f"{self.job.name}: {count} rows were given and {result.num_rows} results came "
                "back: return one result for each row, in their order"
            )
        tokens = pa.array(lengths.astype(np.int32) * sequences.astype(np.int32), pa.int32())
        names = ["id", "n_tokens", "error", *result.column_names]
        columns = [batch.column("#id"), tokens, pa.nulls(count, pa.string()), *result.columns]
        return pa.table(columns, names=names)

    def _failed(self, shard: Range, rows: Range, kind: Any, reason: str, *, leaves: bool) -> None:
        self.channel.tell(
            ShardFailed(
                start=shard.start, stop=shard.stop, first=rows.start, last=rows.stop,
                kind=kind, reason=reason, leaves=leaves,
            )
        )  # fmt: skip

    def _tell(self, done: int, tokens: int) -> None:
        now = time.monotonic()
        if now - self.told >= TELLS:
            self.told = now
            self.channel.tell(Progress(done=done, tokens=tokens))

    def _commit(self, shard: Range, table: pa.Table, began: float, padded: int, fresh: int) -> None:
        facts = {
            "fingerprint": self.job.fingerprint, "start": shard.start, "stop": shard.stop,
            "batch_tokens": self.budget.tokens, "batch_size": self.budget.most_rows,
            "versions": self.versions,
        }  # fmt: skip
        data = shard_bytes(table, facts)
        name = shard_name(shard, data)
        sent = ""
        if self.job.returns_bytes:
            sent = base64.b64encode(data).decode()
        else:
            self._store(name, data)
        self.host = max(self.host, self.channel.host_bytes())
        self.channel.tell(
            ShardDone(
                start=shard.start, stop=shard.stop, file=name, padded_tokens=padded,
                tokens=int(np.sum(table.column("n_tokens").to_numpy(), dtype=np.int64)),
                new_tokens=fresh, seconds=time.monotonic() - began,
                batch_tokens=self.budget.tokens, reserved=self.task.reserved(), host=self.host,
                data=sent,
            )
        )  # fmt: skip

    def _store(self, name: str, data: bytes) -> None:
        """The file whole, or the stage ends: a disk that is full is no row's fault."""
        try:
            with writing(Path(self.job.results) / name) as pending:
                pending.path.write_bytes(data)
                self.faults.at("after-tmp")
                pending.commit()
            self.faults.at("after-rename")
        except (OSError, InputError) as error:
            self._no_place(error)

    def _no_place(self, error: Exception) -> NoReturn:
        self.channel.tell(Fatal(kind="storage", message=str(error)))
        sys.exit(SOFTWARE)


def _new_tokens(result: pa.Table) -> int:
    if "num_new_tokens" not in result.column_names:
        return 0
    return int(np.sum(result.column("num_new_tokens").to_numpy()))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
