"""Loading: weights that do not fit, or do not fit twice."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, guess, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import TORCH, is_of, says
from willfit.doctor.report import Report
from willfit.units import MIB

SEGMENT: Final = 20 * MIB
"""What the allocator takes at once for tensors of 1 to 10 MiB: the end of the last one is in no
tensor, and no hole."""
_DISPATCHED: Final = re.compile(r"dispatched on the CPU|meta device")


def _find(report: Report) -> Cause | None:
    if says(report, _DISPATCHED):
        return likely(
            "model_too_big",
            "The weights are above what the GPUs have free, so that some were put on CPU or disk.",
        )
    if is_of(report, "bitsandbytes"):
        return guess(
            "model_too_big",
            "bitsandbytes' kernel found no room for its output: the weights leave none.",
        )
    if report.context.stage != "load":
        return None
    if is_of(report, "pytorch-legacy", "cuda-error"):
        return _no_numbers(report)
    return (
        _by_numbers(report) if is_of(report, *TORCH, "jax", "tensorflow", "pytorch-xpu") else None
    )


def _no_numbers(report: Report) -> Cause:
    """A model of that time took a fraction of a card; the driver's refusal comes at once."""
    if is_of(report, "pytorch-legacy"):
        return guess(
            "other_process",
            "It failed as the model was moved to the GPU, before any work: "
            "the card was taken, or the model is larger than it.",
        )
    return guess(
        "model_too_big", "It failed as weights were moved to the GPU; the driver gives no number."
    )


def _by_numbers(report: Report) -> Cause:
    numbers = Numbers(report)
    allocated, tried, total = numbers.allocated, numbers.tried, numbers.total
    unallocated, free = numbers.unallocated, numbers.free
    holes = (unallocated or 0) - numbers.slack("allocated_bytes", "reserved_bytes") > SEGMENT
    if tried and free is not None and unallocated and holes and free < tried <= unallocated + free:
        text = worked_out(unallocated, ("+", free, "free"))
        return likely(
            "loading_peak",
            f"{text} are in no tensor, and one piece of {amount(tried)} "
            "does not fit into them: copies made while loading left holes.",
        )
    if allocated is None or not tried or not total:
        return likely("model_too_big", "It failed while weights were placed.")
    text = worked_out(allocated, ("+", tried, "asked for"))
    over = f"{text} of {amount(total)}, and weights are still to come."
    return likely("model_too_big", "It failed while weights were placed.", over)


RULE: Final = Rule(
    name="loading",
    mechanism="While weights are placed nothing else of size is on the card.",
    find=_find,
)
