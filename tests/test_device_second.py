"""More of what an H200 took (h200_second.jsonl): one GPU's rows beside formulas and trace.

All rows, with their traces: ``python -m benchmarks.device.read
tests/data/measured/h200_second.jsonl``.
"""

from __future__ import annotations

from functools import cache

import pytest
from benchmarks.device.recorded import FOLDER, Compared, compare, read_records

RECORDS = {record.name: record for record in read_records(FOLDER / "h200_second.jsonl")}

TRACED = {
    "full/t5 autocast": ("allocated", 0.001),
}
"""Rows that are traced here: what is held to the measurement, and the most it may be off."""


@cache
def compared(name: str, *, trace: bool = False) -> Compared:
    return compare(RECORDS[name], trace=trace)


def error(found: Compared, kind: str) -> float:
    value = found.error(kind)
    assert value is not None, found.reason
    return value


@pytest.mark.parametrize(("name", "held"), TRACED.items())
def test_the_trace(name: str, held: tuple[str, float]) -> None:
    pytest.importorskip("torch")
    kind, bound = held
    assert abs(error(compared(name, trace=True), kind)) <= bound


def test_a_trained_position_bias_takes_a_kernel_that_gives_it_a_gradient() -> None:
    """T5's bias: cuDNN, first on an H200, refuses it (sdp_utils_cpp.h `check_attn_mask_shape`)."""
    pytest.importorskip("torch")
    found = compared("full/t5 autocast", trace=True)
    assert found.result is not None
    assert any("efficient" in text for text in found.result.assumptions)
