"""A stage's prepared rows: made once for a key, checked byte for byte whenever they are used."""

from __future__ import annotations

from willfit.runner.context import Context
from willfit.runner.ingredients import Gathered
from willfit.runner.observer import StageProgress
from willfit.runner.pipeline import StageFile
from willfit.runner.prepared import PreparedRows, are_whole, read_own
from willfit.runner.protocol import Job
from willfit.runner.stages.single import run_single


def prepared_rows(
    name: str, stage: StageFile, gathered: Gathered, context: Context
) -> PreparedRows:
    """The rows of the stage, from an earlier run or another stage where they are the same."""
    path = context.folder.prepared(gathered.key)
    if not are_whole(path):
        job = Job(
            kind="prepare",
            name=name,
            stage=settings_of(stage, gathered),
            rows=str(path),
            data=str(context.data),
            id=context.id_name,
            parent=context.parent,
        )

        def told(done: int) -> None:
            context.observer.progress(StageProgress(name=name, phase="preparing", done=done))

        run_single(context, job, path.parent / "log.txt", told)
    return read_own(path)


def settings_of(stage: StageFile, gathered: Gathered) -> dict[str, object]:
    """The stage as a worker is told it: its defaults filled in, its files where they lie."""
    return {**stage.model_dump(mode="json"), **gathered.paths}
