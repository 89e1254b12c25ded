"""What every task has: loading once, computing a batch, and what it says of memory."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa  # type: ignore[import-untyped]


class Task(ABC):
    """A model, or a user's function, in this process.

    A subclass has ``load``, which is called once, and ``compute``, which takes prepared rows and
    returns as many results, in their order, as a table of its own columns::

        class Lengths(Task):
            def load(self): return ()
            def compute(self, batch): return pa.table({"logits": batch.column("#length")})
    """

    new_tokens: int = 0
    """Tokens that each sequence grows by, which count in a batch's budget."""
    batches_itself: bool = False
    """Whether it is best given all rows of a shard at once, whatever the budget."""

    @abstractmethod
    def load(self) -> tuple[str, ...]:
        """Make ready; returns remarks for the report."""

    @abstractmethod
    def compute(self, batch: pa.Table) -> pa.Table:
        """Results of the prepared rows, one a row."""

    def close(self) -> None:
        """End what was started beside this process."""
        return

    def free(self) -> None:
        """Give back what the last batch left; called after memory ran out."""
        return

    def allocated(self) -> tuple[int, ...]:
        """Bytes in live tensors by GPU."""
        return ()

    def reserved(self) -> tuple[int, ...]:
        """Highest reserved bytes by GPU."""
        return ()

    def num_alloc_retries(self) -> int:
        """How often the allocator had to flush its cache."""
        return 0


def row_seed(seed: int, row: int) -> int:
    """A seed for what begins with a row of the data, whichever worker has it."""
    return (seed * 1_000_003 + row) % 2**63
