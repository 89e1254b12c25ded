"""A worker: answers questions that come as lines of JSON, within bounds of its own process."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from willfit.units import GIB, MIB
from willfit.web.models import HUB_CACHE

MAX_LINE: Final = 32 * MIB
"""A question: the longest that the page takes; escaped, two bytes of a letter are six."""
MAX_DATA: Final = 6 * GIB
"""Private memory of a worker, torch and a trace's recording included."""


def main() -> None:
    """Answer until the pipe is closed."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole life
    os.dup2(sys.stderr.fileno(), 1)  # nothing but answers reaches the server
    _bound()
    _own_cache()
    from willfit.web.answers import answer

    _warm()
    while line := questions.readline(MAX_LINE):
        answers.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        answers.flush()


def _own_cache() -> None:
    """A folder for what the Hub's client keeps; `models` empties it after each model."""
    folder = tempfile.mkdtemp(prefix="hub-", dir=Path.cwd())
    os.environ[HUB_CACHE] = os.environ["HF_HUB_CACHE"] = folder


def _bound() -> None:
    """What a question may take of the machine; the server bounds its time."""
    if sys.platform != "linux":
        return
    import resource

    _lower(resource.RLIMIT_DATA, MAX_DATA)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(kind: int, most: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (allowed, allowed))


def _warm() -> None:
    """What the first visitor should not wait for: modules and tables."""
    from willfit.web.answers import answer

    form: dict[str, Any] = {"tab": "estimate", "model": "gpt2", "gpu": "T4"}
    answer({"form": form})
    answer({"form": {**form, "work": "qlora"}})


if __name__ == "__main__":
    main()
