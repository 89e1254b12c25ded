"""Files of a traced run: its timeline, and a snapshot for PyTorch's visualiser."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

from willfit.errors import InputError
from willfit.estimator.snapshot import snapshot
from willfit.estimator.timeline import timelines
from willfit.report.timeline import timeline_html, timeline_png, timeline_svg
from willfit.trace.recording import Recording


def write_timeline(recording: Recording, path: Path, arguments: argparse.Namespace) -> None:
    """Memory over the run; raises `InputError` where the file cannot be written."""
    title = f"{arguments.model} on {arguments.gpu or 'one GPU'}"
    drawn = timelines(recording, arguments.alloc_conf or "")
    if path.suffix == ".png":
        _write(path, timeline_png(drawn, title))
        return
    draw = timeline_html if path.suffix == ".html" else timeline_svg
    _write(path, draw(drawn, title).encode("utf-8"))


def write_snapshot(recording: Recording, path: Path, arguments: argparse.Namespace) -> None:
    """The run as PyTorch pickles one; raises `InputError` where the file cannot be written."""
    _write(path, pickle.dumps(snapshot(recording, arguments.alloc_conf or "")))


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
