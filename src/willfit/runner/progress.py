"""Progress kept in a file, so that another process can ask how far a run is."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from willfit.errors import InputError
from willfit.runner.atomic import write_json
from willfit.runner.observer import Observer, StageProgress
from willfit.runner.result import StageReport

EVERY: Final = 2.0
"""Seconds between two writings."""


@dataclass(kw_only=True)
class Recording:
    """An observer in front of another, which also keeps ``progress.json``."""

    inner: Observer
    path: Path
    written: float = 0.0
    notes: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def progress(self, now: StageProgress) -> None:
        """Told on, and written every `EVERY` seconds."""
        self.inner.progress(now)
        moment = time.monotonic()
        if moment - self.written >= EVERY:
            self.written = moment
            self._write({"stage": asdict(now)})

    def note(self, text: str) -> None:
        """Told on; the last are kept."""
        self.notes = [*self.notes[-19:], text]
        self.inner.note(text)

    def stage_ended(self, report: StageReport) -> None:
        """Told on."""
        self.ended.append(report.name)
        self.inner.stage_ended(report)
        self._write({"stage": None})

    def done(self) -> None:
        """The run is over."""
        self._write({"stage": None, "done": True})

    def _write(self, more: dict[str, object]) -> None:
        """A disk that is full does not stop a run over its progress."""
        with contextlib.suppress(InputError):
            write_json(
                self.path,
                {
                    "pid": os.getpid(), "at": time.time(), "ended": self.ended,
                    "notes": self.notes, **more,
                },
            )  # fmt: skip
