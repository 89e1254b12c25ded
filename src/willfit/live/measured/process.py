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

START_LIMIT: Final = 180.0
"""Seconds that importing the libraries may take: a minute on a cold disk of two cores."""
LIBRARIES: Final = ("torch", "transformers", "accelerate", "peft")
"""What a process imports before its first job."""
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
        if not self._ready:
            found = self._next(START_LIMIT, "its libraries were not imported")
            if "ready" not in found:
                return found
            self._ready = True
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(dict(job), self._process.stdin)
            self._process.stdin.flush()
        return self._next(time_limit, "not done")

    def _next(self, time_limit: float, what: str) -> dict[str, Any]:
        try:
            found = self._answers.get(timeout=time_limit)
        except queue.Empty:
            self.close()
            return {"error": f"{what} after {time_limit:g} s, and ended", "kind": "not_done"}
        if found is not _END:
            return found
        self._process.wait()
        return {"error": self._epitaph(), "kind": "died"}

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._answers.put(json.loads(line))
        self._answers.put(_END)

    def _epitaph(self) -> str:
        """How the process ended, and the last that was said in it."""
        code = self._process.returncode
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        hint = ": the system may have run out of memory" if code == -signal.SIGKILL else ""
        self._said.seek(0)
        lines = self._said.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        last = f"; its last line was: {lines[-1][:200]}" if lines else ""
        return f"the process ended with {name}{hint}{last}"

    def close(self) -> None:
        """End the process and all that it started; waits until it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(num_gpus: int, alloc_conf: str) -> dict[str, str]:
    """Variables of the process: the GPUs that it sees, the allocator, no network."""
    found = dict(os.environ)
    seen = found.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num_gpus))))
    found["CUDA_VISIBLE_DEVICES"] = ",".join(seen.split(",")[:num_gpus])
    if alloc_conf:
        found["PYTORCH_CUDA_ALLOC_CONF"] = found["PYTORCH_ALLOC_CONF"] = alloc_conf
    found["HF_HUB_OFFLINE"] = "1"
    found.setdefault("TOKENIZERS_PARALLELISM", "false")
    return found
