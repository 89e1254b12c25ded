"""A process that measures: started ahead, given jobs, ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from willfit.live.measurement import FailureKind, tells_of_memory

START_LIMIT: Final = 180.0
"""Seconds that importing the libraries may take: a minute on a cold disk of two cores."""
LIBRARIES: Final = ("torch", "transformers", "accelerate", "peft")
"""What a process imports before its first job."""
END_LIMIT: Final = 20.0
"""Seconds that a killed process is waited for: a driver that hangs keeps it for longer."""
ALLOC_CONF: Final = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Where torch reads the allocator's settings: before 2.9, and since."""
_END: Final[dict[str, Any]] = {}


class Worker:
    """One process of `willfit.live.measured.worker`; a context that ends it.

    Its libraries are imported while the caller does other things.
    """

    def __init__(
        self, *, num_gpus: int = 1, alloc_conf: str = "", libraries: Sequence[str] = LIBRARIES
    ) -> None:
        """``num_gpus``: how many of the GPUs it may see, the first ones."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "willfit.live.measured.worker", *libraries],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment(num_gpus, alloc_conf),
            start_new_session=True,
        )
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._ready = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, job: Mapping[str, Any], time_limit: float) -> dict[str, Any]:
        """The answer: ``result``, or ``error`` and its ``kind``; the process is over after some."""
        found = self.ready()
        if "ready" not in found:
            return found
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(dict(job), self._process.stdin)
            self._process.stdin.flush()
        return self._next(time_limit, "not done")

    def ready(self, time_limit: float = START_LIMIT) -> dict[str, Any]:
        """``ready`` once its libraries are imported; else ``error`` and ``kind``."""
        if self._ready:
            return {"ready": True}
        found = self._next(time_limit, "its libraries were not imported")
        self._ready = "ready" in found
        return found

    def _next(self, time_limit: float, what: str) -> dict[str, Any]:
        try:
            found = self._answers.get(timeout=time_limit)
        except queue.Empty:
            self.close()
            return {"error": f"{what} after {time_limit:g} s, and ended", "kind": "not_done"}
        if found is not _END:
            return found
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_LIMIT)
        return self._epitaph()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._answers.put(json.loads(line))
        self._answers.put(_END)

    def _epitaph(self) -> dict[str, Any]:
        """How the process ended, and the last that was said in it.

        bitsandbytes ends the process itself where CUDA has no memory, and says so in that line.
        """
        code = self._process.returncode
        name = f"code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        hint = ": the system may have run out of memory" if name == "SIGKILL" else ""
        last = self._last_line()
        kind: FailureKind = "out_of_memory" if tells_of_memory(last) else "died"
        said = f"; its last line was: {last}" if last else ""
        return {"error": f"the process ended with {name}{hint}{said}", "kind": kind}

    def _last_line(self) -> str:
        self._said.seek(0)
        lines = self._said.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else ""

    def close(self) -> None:
        """End the process and all that it started; waits until it is gone, or `END_LIMIT`."""
        self._end()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # nobody can end it in a driver's call
            self._process.wait(END_LIMIT)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(num_gpus: int, alloc_conf: str) -> dict[str, str]:
    """Variables of the process: the GPUs that it sees, the allocator, no network.

    The allocator is the scenario's alone: what a shell has set would be in no record.
    """
    found = dict(os.environ)
    seen = found.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num_gpus))))
    found["CUDA_VISIBLE_DEVICES"] = ",".join(seen.split(",")[:num_gpus])
    for name in ALLOC_CONF:
        found.pop(name, None)
        if alloc_conf:
            found[name] = alloc_conf
    found["HF_HUB_OFFLINE"] = "1"
    found.setdefault("TOKENIZERS_PARALLELISM", "false")
    return found
