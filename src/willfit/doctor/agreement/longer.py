"""Longer: the sequence length or the batch with which a scenario would need what was shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from willfit.doctor.agreement.suspects import allocated_peak
from willfit.doctor.sizes.factors import Factor
from willfit.doctor.sizes.work import Work, work_of
from willfit.estimator.evaluator import Evaluator
from willfit.estimator.limits import with_batch_size, with_context
from willfit.scenario import Scenario

SLACK: Final = 0.05
"""Part by which a peak may fall short and still explain a message (see `agreement.TOLERANCE`)."""
MOST: Final = 64
"""Times the scenario's own length or batch that are tried."""


Suffices = Callable[[Scenario], bool]
"""Whether the peak of a scenario reaches what the message shows."""


def longer_rows(scenario: Scenario, work: Work, suffices: Suffices) -> int | None:
    """Tokens of a row from which on it suffices; None within `MOST` times."""
    return _first(work.seq_len, lambda tokens: suffices(with_context(scenario, tokens)))


def larger_batch(scenario: Scenario, work: Work, suffices: Suffices) -> int | None:
    """Rows at a time from which on it suffices."""
    return _first(work.batch, lambda rows: suffices(with_batch_size(scenario, rows)))


@dataclass(frozen=True, kw_only=True)
class LargerBatch:
    """A batch that explains both what was allocated and the size that was asked for."""

    rows: int
    tokens: str
    """The product that comes to the size."""
    allocated_bytes: int
    """Peak of live tensors with it."""


def batch_of_factor(
    scenario: Scenario, gpu: int, needed_bytes: int, factor: Factor, evaluator: Evaluator
) -> LargerBatch | None:
    """Rows of the scenario's length that have the product's tokens, if the peak then suffices."""
    tokens = factor.tokens
    work = work_of(scenario)
    if work is None or tokens is None or tokens % work.seq_len or tokens <= work.tokens:
        return None
    batch = tokens // work.seq_len
    peak = allocated_peak(with_batch_size(scenario, batch), gpu, evaluator)
    if peak is None or peak < needed_bytes * (1 - SLACK):
        return None
    return LargerBatch(rows=batch, tokens=factor.text, allocated_bytes=peak)


def _first(start: int, suffices: Callable[[int], bool]) -> int | None:
    """The smallest number above ``start`` that suffices, by bisection: peaks grow with it."""
    low, high = start, start * 2
    while not suffices(high):
        low, high = high, high * 2
        if high > start * MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
