"""Timeline: the storages of a training step in their order, and how each grows with the batch."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

import torch

LEAST_FACTOR: Final = 16
"""Length from which a multiple of it is no accident: experts see tokens × experts per token."""
LARGEST_POWER: Final = 2
"""Attention's square is the highest power of the length that a step allocates."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a batch as the model gets it."""

    rows: int
    length: int
    """Tokens of a row, padding included."""

    @property
    def tokens(self) -> int:
        """Of the batch, padding included."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Event:
    """A storage made (bytes > 0) or given back (bytes < 0)."""

    num_bytes: int
    power: int
    """Of the length, by which it grows: 0, 1 or 2."""
    length: int
    """Of the batch in whose pass it was made."""
    is_kept: bool = False
    """Whether it outlives the step, as optimizer states do: later steps begin with it."""


def power(shape: Sequence[int], batch: Shape, fixed: Set[int]) -> int:
    """How often the length of the batch is a factor of a tensor's size.

    A dimension counts if it is the length, one less (labels are shifted), or rows × length of it;
    or a multiple of the length that is no dimension of the model's own (``fixed``).
    """
    lengths = {batch.length, batch.length - 1}
    exact = lengths | {batch.rows * length for length in lengths}
    found = 0
    for size in shape:
        multiple = LEAST_FACTOR <= batch.length < size and not size % batch.length
        found += size > 1 and (size in exact or (multiple and size not in fixed))
    return min(found, LARGEST_POWER)


def is_telling(batch: Shape, fixed: Set[int]) -> bool:
    """Whether no dimension of the model can be taken for one of the batch's."""
    lengths = {batch.length, batch.length - 1}
    return batch.length > 2 and not (
        (lengths | {batch.rows * length for length in lengths}) & {*fixed, batch.rows}
    )


class Timeline:
    """Collects the events of one step; an observer of a `HostMeter`."""

    def __init__(self, fixed: Set[int]) -> None:
        """``fixed``: dimensions of the model's own."""
        self._fixed = fixed
        self.batches: list[Shape] = []
        self._events: list[Event] = []
        self._live: dict[int, int] = {}

    def begin_pass(self, batch: Shape) -> None:
        """The next forward pass has that batch."""
        self.batches.append(batch)

    def made(self, key: int, num_bytes: int, shape: Sequence[int]) -> None:
        """A storage of an op."""
        grows = power(shape, self.batches[-1], self._fixed) if self.batches else 0
        length = self.batches[-1].length if self.batches else 1
        self._live[key] = len(self._events)
        self._events.append(Event(num_bytes=num_bytes, power=grows, length=length))

    def freed(self, key: int, num_bytes: int) -> None:
        """A storage of this step, or one from before, is given back."""
        made = self._live.pop(key, None)
        first = self._events[made] if made is not None else _OLDER
        self._events.append(replace(first, num_bytes=-num_bytes))

    def events(self) -> tuple[Event, ...]:
        """In their order, with what is still there marked as kept."""
        kept = set(self._live.values())
        return tuple(
            replace(event, is_kept=number in kept) for number, event in enumerate(self._events)
        )


_OLDER: Final = Event(num_bytes=0, power=0, length=1)


def peak_bytes(events: Sequence[Event]) -> int:
    """Highest sum of what a step makes, over what was there when it began."""
    return max(0, *accumulate(event.num_bytes for event in events)) if events else 0


class LaterSteps:
    """The events of a step, as they are in a later one of another length.

    What the first step kept is there from the start, and not made again. The level after event t
    of a step of length S is ``Σ bytesᵢ · (S / Sᵢ)^powerᵢ`` over i ≤ t, a polynomial in S whose
    three coefficients are summed once.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        again = [event for event in events if not event.is_kept]
        self.kept_bytes = sum(event.num_bytes for event in events if event.is_kept)
        self._levels = [
            torch.tensor(
                [0.0, *(e.num_bytes / e.length**k if e.power == k else 0.0 for e in again)],
                dtype=torch.float64,
            ).cumsum(0)
            for k in range(LARGEST_POWER + 1)
        ]

    def peak_bytes(self, length: int) -> int:
        """Highest sum, over what was there when the first step began."""
        levels = sum(level * length**power for power, level in enumerate(self._levels))
        return self.kept_bytes + round(float(torch.as_tensor(levels).max()))
