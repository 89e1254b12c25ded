"""What a stage does with its rows: one file a task, all of one shape."""

from __future__ import annotations

from willfit.runner.prepared import PreparedRows
from willfit.runner.protocol import Job
from willfit.worker.tasks.task import Task


def task_of(job: Job, rows: PreparedRows) -> Task:
    """The task of a job, not yet loaded."""
    if job.stage.get("run"):
        from willfit.worker.tasks.function import Function

        return Function(job)
    if job.stage.get("engine") == "vllm":
        from willfit.worker.tasks.vllm import vllm_task

        return vllm_task(job, rows)
    from willfit.worker.tasks.choose import Choose
    from willfit.worker.tasks.classify import Classify
    from willfit.worker.tasks.embed import Embed
    from willfit.worker.tasks.generate import Generate
    from willfit.worker.tasks.model import ModelTask

    kinds: dict[str, type[ModelTask]] = {
        "classify": Classify, "choose": Choose, "embed": Embed, "generate": Generate,
    }  # fmt: skip
    return kinds[str(job.stage["task"])](job, rows)
