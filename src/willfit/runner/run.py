"""`run`: every stage of a pipeline in its turn, and the file that it is for."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import (
    GpuNotReleasedError,
    InputError,
    MissingLibraryError,
    StageFailedError,
)
from willfit.installed import installed_versions
from willfit.runner.atomic import read_json, write_json
from willfit.runner.backend import Backend
from willfit.runner.backend import backend as _backend
from willfit.runner.compose import Composed, compose
from willfit.runner.content import DigestCache, digest_bytes, source_content
from willfit.runner.context import Context
from willfit.runner.deadline import Deadline
from willfit.runner.folder import RunFolder
from willfit.runner.gpus import GpuProbe
from willfit.runner.observer import Lines, Observer, Silent
from willfit.runner.pipeline import Pipeline, PipelineFile, pipeline_from, read_pipeline
from willfit.runner.processes import Launcher, LocalLauncher
from willfit.runner.progress import Recording
from willfit.runner.protocol import Job
from willfit.runner.release import Contract
from willfit.runner.result import RunReport, StageReport
from willfit.runner.resume import Earlier, earlier_run
from willfit.runner.stages import Ready, make_ready, run_stage
from willfit.runner.stages.run_stage import without_end
from willfit.runner.stages.single import run_single
from willfit.runner.table import data_digest, read_ids

RUNS = "runs"
"""Folder of run folders in the current one."""
_LIBRARIES = ("willfit", "torch", "transformers", "peft", "bitsandbytes", "pyarrow")
"""Packages whose versions are kept with a run."""


def run(
    pipeline: str | Path | Mapping[str, Any],
    *,
    run_dir: str | Path | None = None,
    fresh: bool = False,
    resume_from: str | Path | None = None,
    backend: str | None = None,
    observer: Observer | None = None,
    probe: GpuProbe | None = None,
    launcher: Launcher | None = None,
    contract: Mapping[str, Any] | None = None,
) -> RunReport:
    """Run a pipeline file (or the same as a mapping): load, compute, give back, stage by stage.

    What an earlier run computed from the same data, model and settings is kept; ``fresh`` computes
    all of it again. ``run_dir`` is where results lie (default ``runs/<name of the file>``).
    ``resume_from`` is the folder of an earlier run, which may be read-only: what counts of its
    results is copied first. ``backend``: ``local`` or ``ray``, in place of the file's.
    ``observer`` is told of progress (default: lines on stderr); ``probe`` reads the GPUs,
    ``launcher`` starts workers, and ``contract`` has the limits of the release contract
    (``tolerance`` in bytes, ``patience`` in seconds).

    Raises `InputError` on what cannot be used, `DoesNotFitError` with the plan for a stage that
    cannot fit, `StageFailedError` where one fails, `GpuNotReleasedError` where memory does not come
    back. In each case what was computed is kept, and the same call goes on from there.
    """
    if fresh and resume_from is not None:
        raise InputError("fresh computes all again and resume_from takes results over: keep one")
    read = _read(pipeline)
    folder = RunFolder(path=run_folder(read, run_dir))
    with folder.locked() as lock, contextlib.ExitStack() as stack:
        local = launcher or LocalLauncher(folder=folder.jobs(), held=(lock,))
        name = backend or read.file.backend
        running = _Run(
            pipeline=read,
            folder=folder,
            fresh=fresh,
            earlier=None if resume_from is None else earlier_run(resume_from, folder),
            observer=Recording(inner=observer or Lines(), path=folder.progress),
            backend=stack.enter_context(_backend(name, read.file, local=local, probe=probe)),
            limits=dict(contract or {}),
        )
        return running.run()


def dry_run(
    pipeline: str | Path | Mapping[str, Any],
    *,
    run_dir: str | Path | None = None,
    observer: Observer | None = None,
    probe: GpuProbe | None = None,
) -> tuple[Ready, ...]:
    """Every stage made ready as `run` would, and nothing computed: what is missing, and if it fits.

    The rows are prepared, so that `run` finds them. Raises what `run` raises before it computes.
    """
    read = _read(pipeline)
    folder = RunFolder(path=run_folder(read, run_dir))
    with folder.locked() as lock, contextlib.ExitStack() as stack:
        local = LocalLauncher(folder=folder.jobs(), held=(lock,))
        there = _backend(read.file.backend, read.file, local=local, probe=probe)
        running = _Run(
            pipeline=read,
            folder=folder,
            fresh=False,
            observer=Recording(inner=observer or Silent(), path=folder.progress),
            backend=stack.enter_context(there),
            limits={},
        )
        return tuple(running.ready(Deadline(seconds=None))[1].values())


def _read(pipeline: str | Path | Mapping[str, Any]) -> Pipeline:
    if isinstance(pipeline, Mapping):
        return pipeline_from(pipeline, Path.cwd())
    return read_pipeline(Path(pipeline))


def run_folder(pipeline: Pipeline, run_dir: str | Path | None = None) -> Path:
    """Where a pipeline's results lie: as given, else ``runs/<stem>`` in the current folder."""
    if run_dir is not None:
        return Path(run_dir).absolute()
    name = pipeline.path.stem if pipeline.path is not None else "pipeline"
    return Path.cwd() / RUNS / name


@dataclass(frozen=True, kw_only=True)
class _Run:
    pipeline: Pipeline
    folder: RunFolder
    fresh: bool
    observer: Recording
    backend: Backend
    limits: Mapping[str, Any]
    earlier: Earlier | None = None

    @property
    def file(self) -> PipelineFile:
        return self.pipeline.file

    def run(self) -> RunReport:
        deadline = Deadline(seconds=self.file.deadline)
        context, stages = self.ready(deadline)
        ids = _ids(context)
        reports, failures = self._stages(stages, context)
        report = self._finish(stages, reports, ids, deadline)
        write_json(self.folder.report, report.json())
        self.observer.done()
        if failures:
            where = f"; {report.output} was written from what is there" if report.output else ""
            raise StageFailedError(f"{failures[0]}{where}")
        return report

    def ready(self, deadline: Deadline) -> tuple[Context, dict[str, Ready]]:
        """Every stage made ready, before the first one computes."""
        _require_libraries(self.file)
        if self.fresh:
            _forget(self.folder)
        write_json(self.folder.run, self._facts())
        context = self._context(deadline)
        return context, {
            name: make_ready(name, stage, context) for name, stage in self.file.stages.items()
        }

    def _stages(
        self, stages: Mapping[str, Ready], context: Context
    ) -> tuple[list[StageReport], list[StageFailedError]]:
        """One after another; where what is available is enough, a failure does not end the run.

        But for memory that does not come back: nothing starts on a GPU that is not free.
        """
        reports: list[StageReport] = []
        failures: list[StageFailedError] = []
        for ready in stages.values():
            try:
                if any(isinstance(error, GpuNotReleasedError) for error in failures):
                    raise StageFailedError(f"stage {ready.name} did not start")
                report = run_stage(ready, context)
            except StageFailedError as error:
                if self.file.missing != "available":
                    raise
                self.observer.note(str(error))
                failures.append(error)
                report = without_end(ready, error)
            reports.append(report)
            self.observer.stage_ended(report)
        return reports, failures

    def _facts(self) -> dict[str, Any]:
        return {
            "pipeline": str(self.pipeline.path) if self.pipeline.path is not None else None,
            "digest": self.pipeline.digest,
            "file": self.file.model_dump(mode="json", exclude_defaults=True),
            "pid": os.getpid(),
            "began": time.time(),
            "versions": installed_versions(_LIBRARIES),
        }

    def _context(self, deadline: Deadline) -> Context:
        probe, devices = self.backend.probe, self.backend.devices
        context = Context(
            folder=self.folder,
            launcher=self.backend.launcher,
            probe=probe,
            devices=devices,
            contract=Contract.now(probe, list(devices.nvml_index.values()), **self.limits),
            deadline=deadline,
            observer=self.observer,
            cache=DigestCache(self.folder.digests),
            data=Path(self.file.data),
            data_digest="",
            id_name=self.file.id,
            seed=self.file.seed,
            earlier=self.earlier,
            shares_folder=self.backend.shares_folder,
        )
        for remark in self.backend.remarks:
            self.observer.note(remark)
        if not devices.gpus:
            self.observer.note("no GPU is found by NVML: every stage runs on the CPU")
        return self._built(context)

    def _built(self, context: Context) -> Context:
        """With the data that the stages read: the user's file, or what ``prepare`` makes of it."""
        digest = data_digest(context.data)
        if self.file.prepare is None:
            return replace(context, data_digest=digest)
        path = _built_path(self.file, digest, self.folder)
        if self.earlier is not None:
            self.earlier.bring_built(path, self.folder)
        kept = read_json(path.with_suffix(".json"))
        if kept is None or not path.is_file() or data_digest(path) != kept.get("digest"):
            job = Job(
                kind="build", name="prepare", stage={"prepare": self.file.prepare},
                rows=str(path), data=str(context.data), id=context.id_name,
                parent=context.parent,
            )  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            run_single(context, job, path.parent / "prepare.txt")
            write_json(path.with_suffix(".json"), {"digest": data_digest(path)})
        return replace(context, data=path, data_digest=data_digest(path))

    def _finish(
        self, stages: Mapping[str, Ready], reports: Sequence[StageReport], ids: pa.Array,
        deadline: Deadline,
    ) -> RunReport:  # fmt: skip
        lacking = any(_lacks(report) for report in reports)
        composed = self._compose(stages, ids, lacking=lacking)
        return RunReport(
            folder=str(self.folder.path),
            stages=tuple(reports),
            seconds=deadline.elapsed,
            output=str(composed.path) if composed is not None else None,
            output_rows=composed.written.num_rows if composed is not None else 0,
            output_sha256=composed.written.sha256 if composed is not None else "",
            complete=not lacking,
            remarks=composed.remarks if composed is not None else (),
        )

    def _compose(
        self, stages: Mapping[str, Ready], ids: pa.Array, *, lacking: bool
    ) -> Composed | None:
        """The output; where rows lack and the policy forbids it, a partial one and an error."""
        if self.file.output is None:
            return None
        path = Path(self.file.output.path)
        try:
            return compose(self.file, stages, ids, path=path, missing=self.file.missing)
        except InputError as error:
            if not lacking or self.file.missing == "available":
                raise
            partial = path.with_name(f"partial-{path.name}")
            compose(self.file, stages, ids, path=partial, missing="available")
            raise StageFailedError(
                f"{error}; what is there was written to {partial}, where rows without a result "
                "have equal probabilities"
            ) from error


def _ids(context: Context) -> pa.Array:
    """The ids of the data, in its order."""
    found = read_ids(context.data, context.id_name).combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def _built_path(file: PipelineFile, digest: str, folder: RunFolder) -> Path:
    """Where the data lies that ``prepare`` makes of the file's, by the contents of both."""
    code = source_content(str(file.prepare))
    name = str(file.prepare).rpartition(":")[2]
    key = digest_bytes(f"{digest} {name} {sorted(code.files.items())}".encode())
    return folder.built(key)


def data_of(pipeline: Pipeline, folder: RunFolder) -> str | None:
    """Digest of the data that the stages read; None where ``prepare`` has not made it yet."""
    digest = data_digest(Path(pipeline.file.data))
    if pipeline.file.prepare is None:
        return digest
    path = _built_path(pipeline.file, digest, folder)
    return data_digest(path) if path.is_file() else None


def _lacks(report: StageReport) -> bool:
    return bool(report.num_missing or report.num_failed)


def _forget(folder: RunFolder) -> None:
    """Remove what was computed; the digests of the model's files stay true."""
    for name in ("stages", "prepared"):
        shutil.rmtree(folder.path / name, ignore_errors=True)


def _require_libraries(file: PipelineFile) -> None:
    """What workers will import, so that a lack is told before anything is read."""
    wanted: dict[str, None] = {}
    for stage in file.stages.values():
        if stage.run is None:
            wanted |= dict.fromkeys(("torch", "transformers", "accelerate"))
        if stage.engine == "vllm":
            wanted["vllm"] = None
        if stage.adapter is not None:
            wanted["peft"] = None
        if stage.quantize is not None:
            wanted["bitsandbytes"] = None
    lacking = [name for name in wanted if importlib.util.find_spec(name) is None]
    if lacking:
        raise MissingLibraryError(
            f"the stages need {', '.join(lacking)}, not installed here: "
            f"pip install {' '.join(lacking)}"
        )
