"""The fine-tuning thread: its page is current, and a trace ends where the report says."""

from __future__ import annotations

import pytest
from tools.build_thread import HEAD, PAGE, REPORTS, cases, page, scenario

import willfit

pytest.importorskip("transformers")


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "python -m tools.build_thread"


def test_all_three_reports_hold_for_some_micro_batches_and_never_for_one_row() -> None:
    holding = {case.batch for case in cases() if case.holds}
    assert {2, 3, 4, 6} <= holding and 1 not in holding and 16 not in holding


@pytest.mark.parametrize(("batch", "compute"), [(2, "float32"), (4, "float16")])
def test_the_trace_ends_in_the_request_that_was_reported(batch: int, compute: str) -> None:
    asked = (
        f"{HEAD} --prepare-kbit --fp16 --bnb-4bit-compute-dtype {compute} "
        f"--per-device-train-batch-size {batch} {REPORTS[0]}"
    )
    failure = willfit.estimate(scenario(asked), trace=True).failure
    assert failure is not None and failure.tried_bytes == 224 * 2**20
