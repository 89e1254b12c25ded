"""``python -m willfit.live.measured.worker LIBRARY…``: imports them, waits for jobs, answers each.

A job is one pickled object on stdin, from the process that started this one; an answer is one line
of JSON on what was stdout, where libraries cannot print into it. Where stdin ends, so does this.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import queue
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

from willfit.errors import WillfitError
from willfit.live.measurement import error_text


def main() -> int:
    """Answer every job until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    jobs: queue.Queue[Mapping[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, jobs), daemon=True).start()
    _send(answers, {"ready": True, **_imported()})
    while True:
        _send(answers, _answer(jobs.get()))


def _listen(source: BinaryIO, jobs: queue.Queue[Mapping[str, Any]]) -> None:
    """Hand jobs on; nobody is there any more once the stream ends, whatever is at work."""
    while True:
        try:
            jobs.put(pickle.load(source))
        except Exception:  # the end, or a half of a job from one who died over it
            os._exit(0)


def _imported() -> dict[str, Any]:
    """The libraries, imported ahead of the first job.

    bitsandbytes, which peft imports, asks CUDA for its devices: that makes no context, and with it
    no memory on a GPU that another case's readings would have in them.
    """
    for name in sys.argv[1:]:
        try:
            importlib.import_module(name)
        except ImportError:  # the job itself says what it lacks
            continue
    return {"pid": os.getpid()}


def _answer(job: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": _done(job)}
    except WillfitError as error:
        return {"error": str(error), "kind": "refused"}
    except MemoryError as error:
        return {"error": error_text(error), "kind": "out_of_memory"}
    except Exception as error:  # a probe's: the row says it
        return {"error": error_text(error), "kind": "refused"}


def _done(job: Mapping[str, Any]) -> Any:
    from willfit.trace.quiet import quiet

    with quiet():
        if job.get("probe"):
            return _probed(job)
        if job.get("what") == "look":
            return _look(job)
        if job.get("saved"):
            from willfit.live.suite.saved import saved

            with saved(job["scenario"]) as folder:
                return _measured({**job, "checkpoint": folder})
        return _measured(job)


def _measured(job: Mapping[str, Any]) -> dict[str, Any]:
    from willfit.live.measured.here import measure_here

    found = measure_here(
        job["scenario"],
        device=job["device"],
        checkpoint=job.get("checkpoint"),
        history=bool(job.get("history")),
    )
    return found.as_dict()


def _probed(job: Mapping[str, Any]) -> dict[str, Any]:
    """A probe's rows, with what it ran on."""
    from willfit.live.measured.facts import device_name, driver_version, library_versions
    from willfit.live.suite.probes import PROBES

    rows = PROBES[job["probe"]](job["device"], job.get("tiny", False))
    return {
        "rows": rows,
        "device": device_name(job["device"]),
        "driver": driver_version(),
        "versions": library_versions(),
    }


def _look(job: Mapping[str, Any]) -> dict[str, Any]:
    """The device that would be taken."""
    from willfit.live.measured.here import chosen_device

    return {"device": chosen_device(job["device"])}


def _send(answers: BinaryIO, content: Mapping[str, Any]) -> None:
    answers.write(json.dumps(content, default=str).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
