"""What is read and timed of training steps, whoever runs them."""

from __future__ import annotations

import time
from typing import Any, Final

from willfit.live.meter import Meter

READ: Final = 2
"""Steps that are read: the first makes the optimizer's states, the second is as all later ones."""
PARTED: Final = READ + 1
"""The step whose phases are timed, with a pause after each."""
STEPS: Final = READ + 3
"""The last two run without a pause and are timed whole."""


class Steps:
    """What is done at the ends of phases."""

    def __init__(self, meter: Meter, *, history: bool) -> None:
        """``history``: keep what was alive in the second step."""
        self.number = 0
        self.parts: dict[str, float] = {}
        self._whole: list[float] = []
        self._since = 0.0
        self._meter = meter
        self._history = history
        self._recording: Any = None
        self._started = 0.0

    def begin(self) -> None:
        """A step begins."""
        self.number += 1
        if self._history and self.number == READ:
            self._recording = self._meter.history()
            self._recording.__enter__()
        self._meter.wait()
        self._started = self._since = time.perf_counter()

    @property
    def whole(self) -> float:
        """Seconds of a step that ran without a pause."""
        return min(self._whole)

    def mark(self, phase: str) -> None:
        """A phase ends."""
        if self.number <= READ:
            self._meter.mark(phase, self.number)
        elif self.number == PARTED:
            self._meter.wait()
            now = time.perf_counter()
            self.parts[phase] = self.parts.get(phase, 0.0) + now - self._since
            self._since = now

    def end(self) -> None:
        """A step is done."""
        if self.number == READ:
            self._meter.stop()
        if self.number > PARTED:
            self._meter.wait()
            self._whole.append(time.perf_counter() - self._started)
        if self._recording is not None:
            self._recording.__exit__(None, None, None)
            self._recording = None
