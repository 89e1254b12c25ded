"""Forecast: from the memory of one training step to that of the longest batch of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from willfit.live.memory.timeline import Event, LaterSteps, Shape, peak_bytes
from willfit.units import format_bytes

DOUBT: Final = 0.10
"""Part of what grows by which it may be more or less. On the CPU eight small models, Llama and
Gemma-2, full and LoRA, eager and SDPA, were within 0.1 % of the later step when the length grew 2
to 8 times (tests/test_callback.py); on a GPU it was not measured, so this is an assumption."""
LONGEST: Final = 2**24
"""Tokens of a row beyond which no limit is looked for."""

Verdict = Literal["fits", "tight", "does_not_fit"]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the longest batch of the data will take."""

    device: str
    first: Shape
    """The batch of the step that was measured."""
    longest: Shape
    longest_row: int | None = None
    """Its number in the data set, from 0; None where the length is not a row's."""
    is_sample: bool = False
    """Whether some rows were not read."""
    fixed_bytes: int
    """There whatever the batch: weights, optimizer states, and what the libraries hold."""
    first_peak_bytes: int
    """Of the step that was measured."""
    peak_bytes: int
    """Of the longest batch."""
    low_bytes: int
    high_bytes: int
    budget_bytes: int | None
    """What tensors of this process may take on the device; None where nobody tells."""
    longest_that_fits: int | None
    """Tokens of a row, with as many rows, that stay below the budget at the high end; None where
    there is no budget."""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """``tight``: the budget lies within the range."""
        if self.budget_bytes is None:
            return None
        if self.high_bytes <= self.budget_bytes:
            return "fits"
        return "tight" if self.low_bytes <= self.budget_bytes else "does_not_fit"

    def text(self) -> str:
        """Lines for people."""
        row = "" if self.longest_row is None else f" (row {self.longest_row} of the data)"
        lines = [
            f"after the first step, {self.first.rows} × {self.first.length} tokens on "
            f"{self.device}: peak {format_bytes(self.first_peak_bytes)}, of which "
            f"{format_bytes(self.fixed_bytes)} are there whatever the batch",
            f"the longest batch, {self.longest.rows} × {self.longest.length} tokens{row}, will "
            f"peak at {format_bytes(self.peak_bytes)} ({format_bytes(self.low_bytes)} to "
            f"{format_bytes(self.high_bytes)}){self._outcome()}",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __str__ = text

    def _outcome(self) -> str:
        if self.budget_bytes is None:
            return ""
        words = {
            "fits": "it fits", "tight": "it may not fit", "does_not_fit": "it does not fit",
            None: "",
        }  # fmt: skip
        limit = self.longest_that_fits or 0
        most = f"at most {limit:,} tokens a row fit" if limit else "no length fits"
        if limit >= LONGEST:
            most = "the length does not matter"
        return f": {words[self.verdict]} in {format_bytes(self.budget_bytes)}; {most}"


@dataclass(kw_only=True)
class Measured:
    """A step, in events over what was there when it began."""

    device: str
    first: Shape
    base_bytes: int
    """In live tensors when it began."""
    unseen_bytes: int = 0
    """More at the peak by the device's own counter than the events tell: workspaces of kernels."""
    reserved_factor: float = 1.0
    """Reserved over allocated at the peak; 1 where there is no caching allocator."""
    events: Sequence[Event]

    @cached_property
    def _later(self) -> LaterSteps:
        return LaterSteps(self.events)

    def first_peak(self) -> int:
        """Of this step."""
        return self.base_bytes + self.unseen_bytes + peak_bytes(self.events)

    def peak(self, length: int) -> int:
        """Of a later one with that length."""
        return self.base_bytes + self.unseen_bytes + self._later.peak_bytes(length)

    def fixed(self) -> int:
        """Between two steps: the weights, the states, and what the libraries hold."""
        return self.base_bytes + self.unseen_bytes + self._later.kept_bytes

    def high(self, length: int) -> int:
        """The upper end: what grows grows by more, workspaces grow as well, and blocks split."""
        grown = max(0, self.peak(length) - self.fixed())
        scale = max(1.0, length / self.first.length)
        unseen = round(self.unseen_bytes * (scale - 1))
        return round((self.peak(length) + unseen + DOUBT * grown) * self.reserved_factor)

    def low(self, length: int) -> int:
        """The lower end."""
        grown = max(0, self.peak(length) - self.fixed())
        return round(self.peak(length) - DOUBT * grown)


def forecast(
    measured: Measured,
    longest: Shape,
    *,
    budget_bytes: int | None,
    row: int | None = None,
    is_sample: bool = False,
    notes: tuple[str, ...] = (),
) -> Forecast:
    """What a step with the longest batch takes.

    ``peak(length) = base + kept + max over time of Σ bytesᵢ · (length / length₁)^powerᵢ``, where
    the sum is over the storages that live at that time, and kept ones are counted once.
    """
    length = longest.length
    return Forecast(
        device=measured.device,
        first=measured.first,
        longest=longest,
        longest_row=row,
        is_sample=is_sample,
        fixed_bytes=measured.fixed(),
        first_peak_bytes=measured.first_peak(),
        peak_bytes=measured.peak(length),
        low_bytes=measured.low(length),
        high_bytes=measured.high(length),
        budget_bytes=budget_bytes,
        longest_that_fits=None if budget_bytes is None else _limit(measured, budget_bytes),
        notes=notes,
    )


def _limit(measured: Measured, budget_bytes: int) -> int:
    """The longest length whose high end stays within the budget; 0 where none does."""
    low, high = 0, LONGEST
    while low < high:
        middle = (low + high + 1) // 2
        if measured.high(middle) <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return low
