"""Padding: how many positions batches of rows of unlike length take, against their tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from willfit.scenario.lengths import Lengths

STEPS: Final = 256
"""The integral over lengths skips those less than 1/256 of the longest, and of the samples, apart
(where grouping is computed for thousands of distinct lengths); 0.2 % on a log-normal."""
MEGA_BATCHES: Final = 50
"""Batches that `get_length_grouped_indices` sorts at a time (transformers 5.23
trainer_pt_utils.py)."""


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Positions that one epoch computes, expected over the orders that its sampler draws."""

    num_tokens: int
    num_positions: float
    """Σ over batches of rows × the longest of them."""

    @property
    def waste(self) -> float:
        """Share of the positions that hold padding."""
        return 1 - self.num_tokens / self.num_positions


def random_order(lengths: Lengths, batch: int) -> Padding:
    """Rows drawn without replacement, as a shuffling DataLoader does, the last batch kept.

    Positions = Σ_batches b·E[max of b rows], with P(max ≤ x) = Π_{i<b} (F(x) − i)/(n − i), F(x) the
    rows of at most x tokens out of n. Exact.
    """
    whole, rest = divmod(lengths.num_samples, batch)
    positions = whole * batch * expected_longest(lengths, batch) if whole else 0.0
    positions += rest * expected_longest(lengths, rest) if rest else 0.0
    return Padding(num_tokens=lengths.num_tokens, num_positions=positions)


def expected_longest(lengths: Lengths, batch: int) -> float:
    """E[max of ``batch`` rows drawn without replacement] = Σ x·(P(max ≤ x) − P(max < x))."""
    total = lengths.num_samples
    drawn = min(batch, total)
    below, expected = 0.0, 0.0
    for value, end in zip(lengths.values, lengths.ends, strict=True):
        up_to = 0.0 if end < drawn else all_within(end, total, drawn)
        expected += value * (up_to - below)
        below = up_to
    return expected


def all_within(part: int, total: int, drawn: int) -> float:
    """P(all of ``drawn`` rows are among ``part`` of ``total``) = C(part, drawn)/C(total, drawn)."""
    share = 1.0
    for i in range(drawn):
        share *= (part - i) / (total - i)
        if share < 1e-18:  # beyond what the sum can show
            return 0.0
    return share


def grouped_by_length(lengths: Lengths, batch: int, accumulation: int = 1) -> Padding:
    """Rows sorted within mega-batches, as the Trainer's `LengthGroupedSampler` gives them.

    With H of the M rows of a mega-batch longer than x, ⌈H/B⌉ of its batches compute position
    x + 1, so positions = Σ_x E[min(B·⌈H/B⌉, M)], H hypergeometric. The sampler's one swap, the
    longest row of all to the front, is left out.
    """
    group = batch * accumulation
    mega = group * max(min(lengths.num_samples // (group * 4), MEGA_BATCHES), 1)
    whole, rest = divmod(lengths.num_samples, mega)
    positions = whole * _sorted_positions(lengths, batch, mega) if whole else 0.0
    positions += _sorted_positions(lengths, batch, rest) if rest else 0.0
    return Padding(num_tokens=lengths.num_tokens, num_positions=positions)


def _sorted_positions(lengths: Lengths, batch: int, drawn: int) -> float:
    """Expected positions of ``drawn`` rows sorted and cut into batches: ∫ over lengths x."""

    def computed(longer: int) -> int:
        return min(-(-longer // batch) * batch, drawn)

    total, indices = lengths.num_samples, _levels(lengths)
    positions = float(lengths.values[0] * drawn)
    for i, j in pairwise(indices):
        above = [_expectation(computed, total, total - lengths.ends[k], drawn) for k in (i, j - 1)]
        positions += (lengths.values[j] - lengths.values[i]) * sum(above) / 2
    return positions


def _levels(lengths: Lengths) -> list[int]:
    """Indices of the lengths to integrate over, the first and the last among them."""
    last = len(lengths.values) - 1
    if last < 2 * STEPS:
        return list(range(last + 1))
    chosen = [0]
    for i in range(1, last + 1):
        wide = (lengths.values[i] - lengths.values[chosen[-1]]) * STEPS >= lengths.longest
        many = (lengths.ends[i] - lengths.ends[chosen[-1]]) * STEPS >= lengths.num_samples
        if wide or many or i == last:
            chosen.append(i)
    return chosen


def _expectation(f: Callable[[int], int], total: int, marked: int, drawn: int) -> float:
    """E[f(H)], H the marked ones among ``drawn`` of ``total``, to 12 standard deviations."""
    first, last = max(0, drawn - (total - marked)), min(marked, drawn)
    mean = drawn * marked / total
    spread = 12 * math.sqrt(mean * (1 - marked / total) + 1) + 12
    first, last = max(first, math.floor(mean - spread)), min(last, math.ceil(mean + spread))
    start = min(max(round(mean), first), last)
    weights = {start: 1.0}
    for h in range(start, last):
        up = (marked - h) * (drawn - h) / ((h + 1) * (total - marked - drawn + h + 1))
        weights[h + 1] = weights[h] * up
    for h in range(start, first, -1):
        down = h * (total - marked - drawn + h) / ((marked - h + 1) * (drawn - h + 1))
        weights[h - 1] = weights[h] * down
    mass = sum(weights.values())
    return sum(f(h) * weight for h, weight in weights.items()) / mass


def packed_rows(lengths: Lengths, row_length: int) -> int:
    """Rows of ``row_length`` that best-fit decreasing fills, TRL's default (``bfd``).

    TRL packs what `datasets.map` hands it, 1,000 samples at a time: a row more each or so. Longer
    samples are cut to a row. The rows hold no padding (positions tell the samples apart), so
    what is left of them is not computed: they only say how many steps an epoch has.
    """
    free: dict[int, int] = {row_length: lengths.num_samples}
    cut = lengths.cut(row_length)
    for value, count in zip(reversed(cut.values), reversed(cut.counts), strict=True):
        waiting = count
        while waiting:
            room = min(left for left in free if left >= value)
            each = room // value  # the next one goes beside it while it fits
            full = min(waiting // each, free[room])
            _put(free, room - each * value, full)
            _put(free, room, -full)
            waiting -= full * each
            if waiting and free.get(room):
                _put(free, room - waiting * value, 1)
                _put(free, room, -1)
                waiting = 0
    return lengths.num_samples - free.get(row_length, 0)


def _put(free: dict[int, int], room: int, rows: int) -> None:
    free[room] = free.get(room, 0) + rows
    if not free[room]:
        del free[room]
