"""Rows: how long the rows of a data set are, read where that is cheap and sampled where not."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

TIME_LIMIT: Final = 2.0
"""Seconds of reading rows."""
MOST_ROWS: Final = 20_000
"""Rows that are read one by one; a column of lengths is read whole."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Lengths of the rows, in tokens."""

    lengths: Sequence[int]
    numbers: Sequence[int]
    """Which row each is of."""
    num_rows: int
    """Of the data set."""

    @property
    def is_sample(self) -> bool:
        """Whether some rows were not read: a longer one may be among them."""
        return len(self.lengths) < self.num_rows

    def longest(self) -> tuple[int, int]:
        """Tokens of the longest row, and its number from 0."""
        length = max(self.lengths)
        return length, self.numbers[self.lengths.index(length)]

    def differ(self) -> bool:
        """Whether batches of several rows have to be padded."""
        return min(self.lengths) != max(self.lengths)

    def sum_of_longest(self, count: int) -> int:
        """Tokens of that many rows, the longest: those of a batch that pads nothing."""
        return sum(sorted(self.lengths, reverse=True)[:count])


def read_rows(dataset: Any, column: str = "length", time_limit: float = TIME_LIMIT) -> Rows | None:
    """Lengths of a data set's rows; None where it has no rows to look at, such as a stream.

    ``column``: the name of a column of lengths, `TrainingArguments.length_column_name`.
    """
    try:
        count = len(dataset)
    except TypeError:
        return None
    found = _column(dataset, column, count)
    if found is None:
        found = dict(_sampled(dataset, count, time.monotonic() + time_limit))
    if not found:
        return None
    return Rows(lengths=list(found.values()), numbers=list(found), num_rows=count)


def _column(dataset: Any, column: str, count: int) -> dict[int, int] | None:
    """A column of lengths, as `datasets` has it after a ``map``."""
    if column not in (getattr(dataset, "column_names", None) or ()):
        return None
    values = list(dataset[column])
    if len(values) != count or not all(isinstance(value, int) for value in values):
        return None
    return dict(enumerate(values))


def _sampled(dataset: Any, count: int, until: float) -> Iterator[tuple[int, int]]:
    """Rows all over the data set: data are often sorted, and their beginning tells nothing."""
    step = max(1, -(-count // MOST_ROWS))
    stride = next(prime for prime in _PRIMES if count % prime) if count > 1 else 1
    for number in range(0, min(count, MOST_ROWS * step), step):
        place = number * stride % count if step == 1 else number
        try:
            length = length_of(dataset[place])
        except (IndexError, KeyError, OSError):
            return
        if length is None:
            return
        yield place, length
        if time.monotonic() > until:
            return


_PRIMES: Final = (7919, 7907, 7901, 7883, 7879)
"""A stride that shares no factor with the number of rows meets each of them once."""


def length_of(row: Any) -> int | None:
    """Tokens of one row: of ``input_ids``, or of the first part of a pair."""
    if isinstance(row, Mapping):
        row = row.get("input_ids")
    elif isinstance(row, tuple):
        row = row[0] if row else None
    if row is None or isinstance(row, str):
        return None
    shape = getattr(row, "shape", None)
    if shape is not None:
        return int(shape[-1]) if len(shape) else None
    return len(row) if hasattr(row, "__len__") else None
