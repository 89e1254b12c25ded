"""Visits: each visitor's last question in each tab: an answer to one before it is too late."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

MOST: Final = 4096
"""Visitors times tabs that are remembered; one that was forgotten has asked nothing."""


class Visits:
    """Numbers of questions, from 1 as the visitor asked them; for any thread."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, visitor: str | None, tab: str, number: int) -> bool:
        """The visitor asks this tab; whether no later question of this tab has come before it."""
        key = (visitor or "", tab)
        with self._lock:
            last = self._last.pop(key, 0)
            self._last[key] = max(last, number)
            if len(self._last) > MOST:
                self._last.popitem(last=False)
        return number >= last

    def last(self, visitor: str | None, tab: str) -> int:
        """The number of its last question; 0 where it has asked none."""
        with self._lock:
            return self._last.get((visitor or "", tab), 0)
