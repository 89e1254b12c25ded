"""How many padded tokens a batch may have: from the estimate, corrected by what happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

CLEAN: Final = 50
"""Batches without trouble after which the budget grows."""
GROWTH: Final = 1.1
SHRINK: Final = 0.75
"""What is kept of the budget when the allocator had to flush its cache twice running."""


@dataclass(kw_only=True)
class Budget:
    """Padded tokens of a batch: halved when memory runs out, shrunk before it does, grown slowly.

    It never grows to what failed once. ``tokens`` None is without limit.
    """

    tokens: int | None
    most_rows: int | None = None
    failed_at: int | None = None
    """Fewest padded tokens that ran out of memory."""
    clean: int = 0
    retries: int = 0
    thrashed: int = 0

    def rows(
        self, lengths: npt.NDArray[np.int32], sequences: npt.NDArray[np.int32], extra: int = 0
    ) -> int:
        """How many of the next rows make a batch, one at least.

        ``lengths``: tokens of each row's longest sequence; ``sequences``: how many a row has;
        ``extra``: tokens that will be generated after them.
        """
        most = len(lengths) if self.most_rows is None else min(len(lengths), self.most_rows)
        if self.tokens is None or most <= 1:
            return max(1, most)
        shortest = max(1, int(lengths[0]) + extra)  # what each row is padded to, at least
        most = max(1, min(most, self.tokens // shortest))
        longest = np.maximum.accumulate(lengths[:most].astype(np.int64) + extra)
        padded = longest * np.cumsum(sequences[:most], dtype=np.int64)
        return max(1, int(np.searchsorted(padded, self.tokens, side="right")))

    def went_well(self, num_alloc_retries: int = 0, padded: int | None = None) -> None:
        """A batch is done; ``num_alloc_retries`` as torch's allocator counts them.

        ``padded``: its tokens; a batch of less than half the budget, at a shard's end or of
        ``most_rows`` short rows, does not show that a larger one would fit.
        """
        thrashes = num_alloc_retries > self.retries
        self.retries = num_alloc_retries
        self.thrashed = self.thrashed + 1 if thrashes else 0
        if self.thrashed >= 2 and self.tokens is not None:
            self.tokens, self.thrashed, self.clean = max(1, int(self.tokens * SHRINK)), 0, 0
            return
        if self.tokens is None:
            return
        if padded is None or 2 * padded >= self.tokens:
            self.clean = 0 if thrashes else self.clean + 1
        if self.clean >= CLEAN:
            grown = int(self.tokens * GROWTH)
            below = grown if self.failed_at is None else min(grown, self.failed_at - 1)
            self.tokens, self.clean = max(self.tokens, below), 0

    def ran_out(self, padded: int) -> tuple[int, int]:
        """A batch of ``padded`` tokens did not fit: what the budget was, and what it is now."""
        before = padded if self.tokens is None else min(self.tokens, padded)
        self.failed_at = padded if self.failed_at is None else min(self.failed_at, padded)
        self.tokens, self.clean = max(1, before // 2), 0
        return before, self.tokens


def padded_tokens(
    lengths: npt.NDArray[np.int32], sequences: npt.NDArray[np.int32], extra: int = 0
) -> int:
    """Tokens of a batch whose every sequence is as long as its longest, and then grows."""
    return (int(lengths.max(initial=0)) + extra) * int(sequences.sum())


def padded_in_order(
    lengths: npt.NDArray[np.int32], sequences: npt.NDArray[np.int32], tokens: int | None,
    most_rows: int | None = None,
) -> int:  # fmt: skip
    """Padded tokens of all batches, were they made in this order with a budget of ``tokens``."""
    budget, total, at = Budget(tokens=tokens, most_rows=most_rows), 0, 0
    while at < len(lengths):
        window = slice(at, at + 4096)
        count = budget.rows(lengths[window], sequences[window])
        total += padded_tokens(lengths[at : at + count], sequences[at : at + count])
        at += count
    return total
