"""Impossible numbers: sizes that no program means, and amounts that cannot be true together."""

from __future__ import annotations

import re
from typing import Final

from willfit.devices import all_gpus
from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import TORCH, in_frames, is_of, says
from willfit.doctor.report import Report

_GARBAGE: Final = re.compile(r"more than 1EB")
_BLOCK: Final = re.compile(r"p\.block != nullptr|block->ptr != nullptr")
_NEGATIVE: Final = 2**63
_CREATED: Final = re.compile(
    r"(?:torch|np|numpy|jnp)\.(?:zeros|ones|empty|full|rand\w*|arange|eye|one_hot)\(|new_zeros\("
    r"|unpad_input|bert_padding|torch\.gather|repeat_interleave"
)
_SCORES: Final = re.compile(r"attn|attention|softmax|scores|baddbmm|matmul\(q", re.IGNORECASE)
TENFOLD: Final = tuple(10**power for power in range(9, 19))
"""Numbers of elements that only a person writes: a billion and more, all zeros after the one."""
LITTLE: Final = 10
"""Held is less than a tenth of the card: the request is not the last of many."""


def _find(report: Report) -> Cause | None:
    numbers = Numbers(report)
    tried = numbers.tried or 0
    if says(report, _GARBAGE) or report.fields.get("tried") == ">1EB":
        return certain(
            "not_a_memory_problem",
            "A size over 1 EB is a negative or unset one: look "
            "at what failed before it (a collective that timed out, a corrupted "
            "file).",
        )
    if says(report, _BLOCK) or tried >= _NEGATIVE:
        return certain(
            "corrupted_shape_bug",
            "A size near 2⁶⁴ is a negative one: an extension computed a shape that does not exist.",
        )
    if not is_of(report, *TORCH):
        return None
    return _too_large(report, numbers) or _contradiction(report, numbers)


def _too_large(report: Report, numbers: Numbers) -> Cause | None:
    """X above every GPU there is, or above this one's total."""
    tried, total = numbers.tried, numbers.total
    largest = max(gpu.capacity_bytes for gpu in all_gpus() if gpu.vendor != "apple")
    if not tried or tried <= (total or largest):
        return None
    if total and (numbers.free or 0) > total:
        return None  # the total is not the limit there
    size = f"{amount(tried)} asked for at once, and {_than(total, largest)}"
    elements = _power_of_ten(tried, numbers.slack("tried_bytes")) if tried > largest else ""
    if elements:
        return likely(
            "not_a_memory_problem",
            f"{size}.",
            f"It is {elements}: somebody asked for "
            "a round number of elements to make the error happen.",
        )
    if is_of(report, "pytorch-hip") and not numbers.allocated:
        return None
    return _by_origin(report, numbers, size, beyond_all=tried > largest)


def _than(total: int | None, largest: int) -> str:
    if total is None:
        return f"the largest GPU has {amount(largest)}"
    return f"the whole card has {amount(total)}"


def _by_origin(report: Report, numbers: Numbers, size: str, *, beyond_all: bool) -> Cause | None:
    created, scores = in_frames(report, _CREATED), in_frames(report, _SCORES)
    halving = "Halving the batch cannot help; the shape is what to look at."
    if created:
        return likely(
            "corrupted_shape_bug",
            f"{size}.",
            f"It is made in `{created}`: a count or a mask there is not what was meant.",
            halving,
        )
    if beyond_all and not scores:
        return likely("corrupted_shape_bug", f"{size}.", halving)
    allocated, total = numbers.allocated, numbers.total
    if not scores and allocated is not None and total and allocated * LITTLE < total:
        return likely(
            "corrupted_shape_bug",
            f"{size}.",
            f"Only {amount(allocated)} is in use: this is among the first tensors.",
            halving,
        )
    if is_of(report, "pytorch-hip") and not scores:
        return None
    give = likely if scores else guess
    where = (f"It is asked for at `{scores}`.",) if scores else ()
    return give(
        "attention_quadratic",
        f"{size}.",
        *where,
        "Of what a model computes only a product "
        "of the length with itself grows so large: attention's whole matrix.",
    )


def _power_of_ten(tried: int, slack: int) -> str:
    for width in (1, 2, 4, 8):
        for count in TENFOLD:
            if abs(tried - count * width) <= slack + 1:
                return f"{count:,} × {width} B"
    return ""


def _contradiction(report: Report, numbers: Numbers) -> Cause | None:
    """R < A, or A + F > T on a card whose driver does not spill."""
    allocated, reserved = numbers.allocated, numbers.reserved
    slack = numbers.slack("allocated_bytes", "reserved_bytes", "free_bytes", "total_bytes")
    if allocated is not None and reserved is not None and reserved < allocated - slack:
        return guess(
            "unknown",
            f"{amount(reserved)} reserved is less than {amount(allocated)} "
            "allocated within it: these are not the numbers of one moment.",
        )
    free, total = numbers.free, numbers.total
    if not is_of(report, "pytorch-cuda") or allocated is None or free is None or total is None:
        return None
    if free and free <= total and allocated + free > total + slack and allocated <= total:
        text = worked_out(allocated, ("+", free, "free"))
        return guess(
            "unknown",
            f"{text} is more than the card's {amount(total)}: these are not the "
            "numbers of one moment.",
        )
    return None


RULE: Final = Rule(
    name="impossible numbers",
    mechanism="A size beyond the card, or amounts that contradict each other, come from a bug in "
    "what was asked for and not from the amount of work.",
    find=_find,
)
