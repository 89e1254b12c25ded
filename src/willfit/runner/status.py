"""How far a run is, and what the same command would compute again, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from willfit.errors import InputError, WillfitError
from willfit.runner.atomic import read_json
from willfit.runner.content import DigestCache
from willfit.runner.folder import RunFolder, StageFolder
from willfit.runner.ingredients import gather
from willfit.runner.pipeline import Pipeline, pipeline_from, read_pipeline
from willfit.runner.prepared import open_rows
from willfit.runner.reasons import why_anew
from willfit.runner.run import data_of, run_folder
from willfit.runner.shards import Range, disjoint
from willfit.runner.shards.store import range_of

SCHEMA = "willfit.status/1"


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """One stage."""

    name: str
    rows: int | None
    """None before its rows were prepared."""
    done: int
    """Rows whose shards are there, by the names of their files."""
    reasons: tuple[str, ...] = ()
    """What would be computed again, and why; empty where what is there counts."""
    report: dict[str, Any] | None = None
    """Of the last run that computed something of it."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run folder now."""

    folder: Path
    pid: int | None
    """The process that runs it; None where none does."""
    stages: tuple[StageStatus, ...]
    progress: dict[str, Any] = field(default_factory=dict)
    """As `progress.json` has it."""
    output: str | None = None
    complete: bool = False

    def json(self) -> dict[str, Any]:
        """As ``willfit status --json`` prints it."""
        return {
            "schema": SCHEMA,
            "folder": str(self.folder),
            "pid": self.pid,
            "complete": self.complete,
            "output": self.output,
            "progress": self.progress,
            "stages": [
                {
                    "name": stage.name, "rows": stage.rows, "done": stage.done,
                    "reasons": list(stage.reasons), "report": stage.report,
                }
                for stage in self.stages
            ],
        }  # fmt: skip


def status(run: str | Path) -> Status:
    """Of a run folder, or of the pipeline file that made one in the current folder.

    Raises `InputError` where there is no run.
    """
    folder, pipeline = _found(Path(run))
    facts = read_json(folder.run)
    if facts is None:
        raise InputError(
            f"{folder.path} is no run: expected a run folder, or a pipeline file that was run here"
        )
    if pipeline is None:
        pipeline = _pipeline_of(facts, folder)
    report = read_json(folder.report) or {}
    return Status(
        folder=folder.path,
        pid=int(facts["pid"]) if folder.is_locked() else None,
        stages=tuple(_stages(folder, pipeline, facts)),
        progress=read_json(folder.progress) or {},
        output=report.get("output"),
        complete=bool(report.get("complete")),
    )


def _found(path: Path) -> tuple[RunFolder, Pipeline | None]:
    if path.is_dir():
        return RunFolder(path=path.absolute()), None
    pipeline = read_pipeline(path)
    return RunFolder(path=run_folder(pipeline)), pipeline


def _pipeline_of(facts: dict[str, Any], folder: RunFolder) -> Pipeline | None:
    """The file as it is now; as it was when it ran, where it is gone; None where neither reads."""
    path = facts.get("pipeline")
    try:
        if path is not None and Path(path).is_file():
            return read_pipeline(Path(path))
        return pipeline_from(facts["file"], folder.path)
    except (WillfitError, KeyError, TypeError):
        return None


def _stages(
    folder: RunFolder, pipeline: Pipeline | None, facts: dict[str, Any]
) -> Iterator[StageStatus]:
    if pipeline is None:
        for name in facts.get("file", {}).get("stages", {}):
            yield _latest(name, folder, ("the pipeline file is gone",))
        return
    data = data_of(pipeline, folder)
    cache = DigestCache(folder.digests)
    for name, stage in pipeline.stages.items():
        if data is None:
            yield _latest(name, folder, ("the data was not made yet",))
            continue
        try:
            gathered = gather(stage, data, pipeline.file.id, pipeline.file.seed, cache)
        except WillfitError as error:
            yield _latest(name, folder, (str(error),))
            continue
        here = folder.stage(name, gathered.fingerprint)
        rows = folder.prepared(gathered.key)
        yield StageStatus(
            name=name,
            rows=open_rows(rows).num_rows if rows.is_file() else None,
            done=sum(found.size for found in _ranges(here)),
            reasons=why_anew(name, gathered, folder),
            report=read_json(here.done),
        )
    cache.save()


def _ranges(stage: StageFolder) -> list[Range]:
    stated = (range_of(path) for path in stage.shards.glob("*.parquet"))
    return disjoint(found for found in stated if found is not None)


def _latest(name: str, folder: RunFolder, reasons: tuple[str, ...]) -> StageStatus:
    for stage in folder.stages(name):
        return StageStatus(
            name=name, rows=None, done=sum(found.size for found in _ranges(stage)), reasons=reasons
        )
    return StageStatus(name=name, rows=None, done=0, reasons=reasons)
