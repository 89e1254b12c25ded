"""The user's data in a few lines: how long the samples are, and what padding them costs."""

from __future__ import annotations

from typing import Any

from willfit.formulas.training.padding import Padding
from willfit.scenario.lengths import Lengths


def data_line(lengths: Lengths, max_length: int | None) -> str:
    """Rows, tokens, quantiles and what ``max_length`` cuts."""
    words = [
        f"{lengths.num_samples:,} samples, {lengths.num_tokens:,} tokens: mean {lengths.mean:,.0f}",
        f"half up to {lengths.quantile(0.5):,}",
        f"95 % up to {lengths.quantile(0.95):,}",
        f"longest {lengths.longest:,}",
    ]
    if max_length is not None:
        above = lengths.num_above(max_length)
        words.append(f"{_percent(above / lengths.num_samples)} cut at {max_length:,}")
    return ", ".join(words)


def padding_line(
    *, batch: int, shuffled: Padding, grouped: Padding, row_length: int, packed_rows: int
) -> str:
    """Share of the positions that would be padding, by the way batches are made."""
    return (
        f"of {batch} samples a batch {_percent(shuffled.waste)} would be padding in random order, "
        f"{_percent(grouped.waste)} grouped by length; packing fills {packed_rows:,} rows of "
        f"{row_length:,} without any"
    )


def data_json(lengths: Lengths, max_length: int | None) -> dict[str, Any]:
    """The same as numbers."""
    return {
        "num_samples": lengths.num_samples,
        "num_tokens": lengths.num_tokens,
        "mean": lengths.mean,
        "p50": lengths.quantile(0.5),
        "p95": lengths.quantile(0.95),
        "longest": lengths.longest,
        "num_cut": 0 if max_length is None else lengths.num_above(max_length),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"
