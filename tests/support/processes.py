"""Processes that a test started, found by a variable that all below them inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil

VARIABLE = "WILLFIT_TEST_ID"


def mark() -> dict[str, str]:
    """An environment like ours with a mark of its own."""
    return {**os.environ, VARIABLE: uuid.uuid4().hex}


def alive(environ: Mapping[str, str]) -> list[str]:
    """Command lines of the processes that carry the mark."""
    lines = []
    for process in _marked(environ[VARIABLE]):
        with suppress(psutil.NoSuchProcess):  # it ended, or is a zombie, since it was found
            lines.append(" ".join(process.cmdline()[:4]))
    return lines


def gone(environ: Mapping[str, str], patience: float = 10.0) -> bool:
    """Whether all that carry the mark end within some seconds."""
    until = time.monotonic() + patience
    while alive(environ):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def script(text: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A script that runs, in a group of its own; nothing of it is left afterwards."""
    environ = mark()
    process = subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process, environ
    finally:
        end(environ)
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()


def end(environ: Mapping[str, str]) -> None:
    """Kill what carries the mark."""
    for process in _marked(environ[VARIABLE]):
        os.kill(process.pid, signal.SIGKILL)


def _marked(value: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE) == value and process.status() != "zombie":
                yield process
        except psutil.Error:
            continue
