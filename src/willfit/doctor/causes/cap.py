"""Cap: a limit that the process has set itself."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import in_frames, is_of, says
from willfit.doctor.report import Report
from willfit.units import MIB

_FRACTION: Final = re.compile(r"per_process_memory_fraction")
_LOGITS: Final = re.compile(r"logits|lm_head|cross_entropy")
_COMPUTED: Final = re.compile(r"attn|attention|softmax|conv\dd|linear|matmul")
TELLING: Final = 512 * MIB
"""A refused tensor of this size says more about what to shrink than the cap does."""


def _find(report: Report) -> Cause | None:
    numbers = Numbers(report)
    allowed = numbers.of("allowed_bytes")
    if says(report, _FRACTION):
        return certain(
            "per_process_cap",
            "The limit of set_per_process_memory_fraction refused it before the device was asked.",
        )
    if allowed is None or numbers.allocated is None:
        return None
    if is_of(report, "mps"):
        return _watermark(report, numbers, allowed)
    return _fraction(numbers, allowed, numbers.allocated)


def _fraction(numbers: Numbers, allowed: int, allocated: int) -> Cause:
    """Ours when A + U + X is over it; else the device itself was full."""
    tried, unallocated = numbers.tried or 0, numbers.unallocated or 0
    slack = numbers.slack("allowed_bytes", "allocated_bytes", "tried_bytes") + 2 * MIB
    if allocated + unallocated + tried >= allowed - slack:
        sum_ = worked_out(allocated, ("+", unallocated, "cached"), ("+", tried, "asked for"))
        free = f"; {amount(numbers.free)} of the device is free" if numbers.free else ""
        return certain(
            "per_process_cap",
            f"{sum_}, over the {amount(allowed)} that this process allows itself{free}.",
        )
    left = worked_out(allowed, ("−", allocated, "allocated"))
    return likely(
        "other_process",
        f"{left} of its own allowance is unused, and the device has "
        f"{amount(numbers.free or 0)} free: others hold the rest.",
    )


def _watermark(report: Report, numbers: Numbers, allowed: int) -> Cause | None:
    """MPS: allocated + other + X over the watermark; a large X or a frame says what to shrink."""
    allocated, other = numbers.allocated or 0, numbers.of("other_bytes") or 0
    tried = numbers.tried or 0
    sum_ = worked_out(allocated, ("+", other, "of others"), ("+", tried, "asked for"))
    text = f"{sum_}, against the {amount(allowed)} of the watermark."
    if in_frames(report, _LOGITS):
        return likely("logits_vocab", text, f"It is asked for at `{in_frames(report, _LOGITS)}`.")
    if tried >= TELLING and in_frames(report, _COMPUTED):
        where = in_frames(report, _COMPUTED)
        return likely("activations_batch_seq", text, f"{amount(tried)} at `{where}`.")
    return certain(
        "per_process_cap",
        text,
        "It is 1.7 times what macOS recommends for the GPU "
        "unless PYTORCH_MPS_HIGH_WATERMARK_RATIO says otherwise.",
    )


RULE: Final = Rule(
    name="own cap",
    mechanism="The allocator compares with its cap before it asks the device.",
    find=_find,
)
