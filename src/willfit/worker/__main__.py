"""The worker's process: reads its job, does it, and leaves with a code that says how it went."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Literal

from willfit.errors import StorageError, WillfitError
from willfit.runner.protocol import SOFTWARE, Booted, Fatal, Job, job_of
from willfit.worker.channel import Channel, bind_to_parent


def main(argv: list[str]) -> int:
    """``JOB COMMANDS EVENTS``: the job's file and two file descriptors."""
    os.environ.pop("PYTHONSAFEPATH", None)  # ours alone: not for what a user's code starts
    job = job_of(Path(argv[0]))
    channel = Channel(commands=int(argv[1]), events=int(argv[2]))
    bind_to_parent(job.parent)
    channel.start()
    channel.tell(Booted(pid=channel.pid, devices=channel.devices))
    try:
        _work(job, channel)
    except WillfitError as error:
        kind: Literal["input", "storage"] = (
            "storage" if isinstance(error, StorageError) else "input"
        )
        channel.tell(Fatal(kind=kind, message=str(error)))
        return SOFTWARE
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        channel.tell(Fatal(kind="bug", message=message))
        return SOFTWARE
    if job.kind == "stage" and not job.stage.get("run") and job.stage.get("engine") != "vllm":
        leave()
    return 0


def leave() -> None:
    """End at once: results are on the disk, and taking torch apart takes a second of every stage.

    Not where a user's code, or an engine, may still have something to do at the end.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _work(job: Job, channel: Channel) -> None:
    if job.kind == "stage":
        from willfit.worker.serve import serve

        serve(job, channel)
    elif job.kind == "prepare":
        from willfit.worker.prepare import prepare

        prepare(job, channel)
    elif job.kind == "build":
        from willfit.worker.prepare import build

        build(job, channel)
    else:
        from willfit.worker.calls import answer_calls

        answer_calls(channel)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
