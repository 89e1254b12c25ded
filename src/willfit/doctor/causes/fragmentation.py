"""Fragmentation: memory that the allocator holds in pieces too small for the request."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, guess, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import TORCH, is_of, marked, says
from willfit.doctor.report import Report

_ADVICE: Final = re.compile(r"max_split_size_mb|expandable_segments")
SHARE: Final = 10
"""From a tenth of the card on it is worth naming: of 82 public messages 11 are above that, and 62
are below a twentieth."""
PIECES: Final = 2
LARGE: Final = 8
"""A request above half of what is cached and an eighth of the card is one large tensor, not one of
many pieces: the two threads of the unseen reports that had such numbers and an end cut the batch or
the frames."""


def _find(report: Report) -> Cause | None:
    numbers = Numbers(report)
    tried, free, total = numbers.tried, numbers.free, numbers.total
    unallocated = numbers.unallocated
    if not is_of(report, *TORCH) or not tried or free is None or not total or unallocated is None:
        return None
    if unallocated * SHARE < total or not free < tried <= unallocated + free:
        return None
    sum_ = worked_out(unallocated, ("+", free, "free"))
    if tried * PIECES > unallocated and tried * LARGE > total:
        return guess(
            "activations_batch_seq",
            f"{sum_} are in no tensor, and {amount(tried)} of {amount(total)} were asked for in "
            "one piece: more than half of what is cached would have to be one hole.",
            "A tensor of that size changes with the batch, the length or the resolution.",
        )
    return likely(
        "fragmentation",
        f"{sum_} are in no tensor, and {amount(tried)} in one piece do "
        f"not fit into them: the {amount(unallocated)} lie in partly used segments.",
        f"A better packing brings at most {amount(unallocated)}; the rest of the card is in use.",
    )


def bound(report: Report) -> str:
    """What the advice that PyTorch prints with every message could bring at most here."""
    numbers = Numbers(report)
    unallocated, tried, total = numbers.unallocated, numbers.tried, numbers.total
    if not is_of(report, *TORCH) or unallocated is None or not tried or not total:
        return ""
    if unallocated < 0 or unallocated * SHARE >= total or not _advised(report):
        return ""
    enough = unallocated + (numbers.free or 0) >= tried
    end = "" if enough else f", not the {amount(tried)} asked for"
    return (
        f"The advice about fragmentation that PyTorch prints with every such message could bring "
        f"at most {amount(unallocated)} here{end}."
    )


def _advised(report: Report) -> bool:
    return marked(report, "advises_split", "advises_expandable") or says(report, _ADVICE)


RULE: Final = Rule(
    name="fragmentation",
    mechanism="When the error is raised every segment that was wholly free has been given back: "
    "what is still reserved and unallocated is what the pieces cost.",
    find=_find,
)
