"""Visits: how often a visitor asked each tab, by which an answer knows that it comes too late."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

MOST: Final = 4096
"""Visitors times tabs that are remembered; one that was forgotten has asked nothing."""


class Visits:
    """Counts of questions; for any thread."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, visitor: str | None, tab: str) -> int:
        """The visitor asks this tab now; the question's number, from 1."""
        key = (visitor or "", tab)
        with self._lock:
            number = self._counts[key] = self._counts.pop(key, 0) + 1
            if len(self._counts) > MOST:
                self._counts.popitem(last=False)
        return number

    def count(self, visitor: str | None, tab: str) -> int:
        """How often the visitor asked it."""
        with self._lock:
            return self._counts.get((visitor or "", tab), 0)
