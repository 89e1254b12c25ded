"""Which shard goes out next, and what a failure does to it: the one retry policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from willfit.runner.shards.ranges import Range

ATTEMPTS: Final = 3
"""Tries of a shard before it is split to find the row that it fails on."""


@dataclass(kw_only=True)
class Schedule:
    """The shards still to be computed.

    A shard that fails goes back; after `ATTEMPTS` failures it is halved, each half with one try
    before it is halved in turn, until a row stands alone, which has two more: a row that still
    fails is *poison*. Where a worker could say which rows it was at, those are taken apart at once.

    What failed waits until all that never did is done, so that time is not spent on a few bad rows
    while good ones lie there; a row that a worker named waits behind everything. Only when
    `ATTEMPTS` shards wait so does the next one that fails keep its place: then it may not be the
    rows, and the search shows it soonest.
    """

    pending: list[Range]
    """Next first."""
    attempts: int = ATTEMPTS
    in_flight: set[Range] = field(default_factory=set)
    failures: dict[Range, int] = field(default_factory=dict)
    """How often each range failed so far."""
    poison: dict[int, str] = field(default_factory=dict)
    """Why, by position of a row that cannot be computed."""
    num_done: int = 0
    """Rows done by this run."""
    num_retries: int = 0

    @classmethod
    def of(cls, pieces: Sequence[Range], *, attempts: int = ATTEMPTS) -> Schedule:
        """All pieces pending, in their order."""
        return cls(pending=list(pieces), attempts=attempts)

    def take(self) -> Range | None:
        """The next shard; None where none is pending."""
        if not self.pending:
            return None
        rows = self.pending.pop(0)
        self.in_flight.add(rows)
        return rows

    def done(self, rows: Range) -> None:
        """A shard is committed."""
        self.in_flight.discard(rows)
        self.num_done += rows.size

    def give_back(self, rows: Range) -> None:
        """A shard was not computed, through no fault of its own."""
        self.in_flight.discard(rows)
        self.pending.insert(0, rows)

    def failed(self, rows: Range, reason: str, suspect: Range | None = None) -> None:
        """A shard failed: with an error in the rows ``suspect``, or with the worker's death."""
        self.in_flight.discard(rows)
        self.num_retries += 1
        count = self.failures.pop(rows, 0) + 1
        if rows.size == 1 and count >= self.attempts:
            self.poison[rows.start] = reason
            return
        for part in self._parts(rows, count, suspect):
            if part == rows:
                self._put_back(part, count, self._place())
            elif suspect is None or part == suspect:  # a part has one try more, a row two
                last = part == suspect and part.size == 1
                tries = self.attempts - (2 if part.size == 1 else 1)
                self._put_back(part, tries, len(self.pending) if last else self._place())
            else:
                self.pending.insert(0, part)

    def _put_back(self, rows: Range, failures: int, place: int) -> None:
        self.failures[rows] = failures
        self.pending.insert(place, rows)

    def _place(self) -> int:
        """Behind all that never failed, before what did; in front if enough of that waits."""
        tried = [place for place, rows in enumerate(self.pending) if rows in self.failures]
        if len(tried) >= self.attempts:
            return 0
        return tried[0] if tried else len(self.pending)

    def _parts(self, rows: Range, count: int, suspect: Range | None) -> list[Range]:
        """In reverse order, so that the first ends up first."""
        if suspect is not None and suspect != rows and suspect.size < rows.size:
            around = (Range(suspect.stop, rows.stop), suspect, Range(rows.start, suspect.start))
            return [part for part in around if part.size > 0]
        if rows.size > 1 and count >= self.attempts:
            middle = rows.start + rows.size // 2
            return [Range(middle, rows.stop), Range(rows.start, middle)]
        return [rows]

    @property
    def finished(self) -> bool:
        """Whether nothing is pending and nothing under way."""
        return not self.pending and not self.in_flight
