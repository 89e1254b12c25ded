"""Measurements of less than a job: replayed streams, and kernels whose code runs on fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.ledger import judging
from benchmarks.ledger.judging import judge
from benchmarks.ledger.liger import _archive
from benchmarks.ledger.row import Computed, PublishedRow
from benchmarks.ledger.run import rows_of

from willfit.errors import UnsupportedError


def test_recorded_streams_reserve_what_was_recorded(shared: Path) -> None:
    rows = list(rows_of(shared / "measured", ["allocator_snapshots"]))
    outcomes = [o for row in rows for o in judge(row, "trace").outcomes if o.error is not None]
    assert len(outcomes) == 3 * 21
    assert max(abs(o.error or 0) for o in outcomes) < 0.0002
    assert all(o.error == 0 for o in outcomes if "reserved" in o.kind)


ROW: PublishedRow = {
    "id": "kernels:1", "tier": "B", "task": "kernel:full", "measured": [{"kind": "peak", "bytes": 8}]
}  # fmt: skip


def _cannot() -> int:
    raise UnsupportedError("no such release")


@pytest.mark.parametrize(
    ("num_bytes", "estimated", "reason"),
    [(lambda: 6, 6, None), (_cannot, None, "no such release")],
)
def test_a_computed_amount_or_its_reason(
    monkeypatch: pytest.MonkeyPatch,
    num_bytes: Callable[[], int],
    estimated: int | None,
    reason: str | None,
) -> None:
    computed = Computed(kind="peak", num_bytes=num_bytes)
    monkeypatch.setattr(judging, "importer", lambda *_: lambda _: iter([computed]))
    (outcome,) = judge(ROW, "trace").outcomes
    assert (outcome.estimated_bytes, outcome.reason) == (estimated, reason)
    assert outcome.error == (None if estimated is None else -0.25)


@pytest.mark.parametrize("name", ["layer_norm", "tiled_swiglu"])
def test_a_kernel_is_as_measured(shared: Path, name: str) -> None:
    """One row of each provider; to 1 MiB or 1 %."""
    try:
        _archive("0.6.4")
    except UnsupportedError as error:
        pytest.skip(str(error))
    rows = [
        row
        for row in rows_of(shared / "measured", ["liger_kernel_memory"])
        if row["model"] == name and row["x_value"] == "4096" and row["timestamp"] >= "2025-07"
    ]
    found = {row["provider"]: judge(row, "trace").outcomes[0] for row in rows}
    assert {"liger", "huggingface"} <= set(found)
    for provider, outcome in found.items():
        assert outcome.estimated_bytes is not None, (provider, outcome.reason)
        off = abs(outcome.estimated_bytes - outcome.measured_bytes)
        assert off <= max(2**20, outcome.measured_bytes // 100), provider


def test_a_kernel_without_a_meaning_is_a_reason(shared: Path) -> None:
    rows = [
        row
        for row in rows_of(shared / "measured", ["liger_kernel_memory"])
        if row["model"] == "embedding"
    ]
    outcomes = [o for row in rows[:3] for o in judge(row, "trace").outcomes]
    assert outcomes
    assert all("left from before" in str(o.reason) for o in outcomes)
