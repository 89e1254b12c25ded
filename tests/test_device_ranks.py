"""One rank of several as an H200 had it (tests/data/measured/h200_second.jsonl), by trace.

The runs were rank 0 under torch's fake process group: `willfit measure --suite ranks`. In those of
FSDP that train all weights the optimizer kept no states (the weights shared one buffer in host
memory, by which accelerate tells them apart): they are estimated with an optimizer that has none,
and two of them, whose optimizer kept one tensor's, are read up to the end of the first step.
"""

from __future__ import annotations

from functools import partial

import pytest
from tests.support import recorded
from tests.support.recorded import error

RECORDED = recorded.records("h200_second.jsonl")
compared = partial(recorded.compared, "h200_second.jsonl")
SHARDED = [name for name in RECORDED if name.startswith(("ddp/", "fsdp/"))]
TRACED = {
    "ddp/llama1": (0.002, 0.01),
    "ddp/llama1 autocast": (0.002, 0.01),
    "ddp/llama1 lora": (0.002, 0.01),
    "fsdp/llama1": (0.002, 0.01),
    "fsdp/llama1 autocast": (0.002, 0.01),
    "fsdp/llama1 two ranks": (0.002, 0.01),
    "fsdp/llama1 lora": (0.002, 0.01),
    "fsdp/llama1 accumulation": (0.002, 0.02),
    "fsdp/llama3b checkpointed": (0.002, 0.12),
    "fsdp/llama8 checkpointed": (0.002, 0.08),
    "fsdp/llama8 qlora": (0.002, 0.02),
    "zero1/llama1 autocast": (0.015, 0.07),
    "zero2/llama1": (0.015, 0.05),
    "zero2/llama1 lora": (0.001, 0.01),
    "zero3/llama1": (0.04, 0.16),
}
"""The most that the trace's allocated and reserved peaks may be off."""


@pytest.mark.parametrize(("name", "bounds"), TRACED.items())
def test_a_rank_by_trace(name: str, bounds: tuple[float, float]) -> None:
    pytest.importorskip("torch")
    found = compared(name, trace=True)
    for kind, bound in zip(("allocated", "reserved"), bounds, strict=True):
        assert abs(error(found, kind)) <= bound, kind


@pytest.mark.parametrize("name", SHARDED)
def test_a_rank_by_formula(name: str) -> None:
    assert abs(error(compared(name), "allocated")) <= 0.005


ZERO = {
    "zero1/llama1 autocast": (0.0, 0.065),
    "zero2/llama1": (0.0, 0.065),
    "zero2/llama1 lora": (-0.005, 0.005),
    "zero3/llama1": (-0.01, 0.075),
    "zero3/llama3b checkpointed": (-0.01, 0.065),
}
"""Between what the formulas' allocated peak of a ZeRO rank may be off.

The first rank's own gradients come last; the others' wait while buckets are full, which is 5.8 % of
Llama-3.2-1B's peak: the formulas are of them. ZeRO-3 was set up to gather in float32, and kept a
rank's gradients in bfloat16 all the same: 3.9 and 5.6 % of what it is estimated with.
"""


@pytest.mark.parametrize(("name", "bounds"), ZERO.items())
def test_a_rank_of_zero_by_formula(name: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    assert low <= error(compared(name), "allocated") <= high


def test_packed_weights_are_on_the_gpu_as_a_whole_before_fsdp_takes_its_part() -> None:
    found = compared("fsdp/llama8 qlora").phase_error("allocated", "load")
    assert found is not None
    assert abs(found) <= 0.03
