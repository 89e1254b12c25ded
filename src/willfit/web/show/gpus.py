"""Many GPUs on the page: which of them hold the job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.results import Estimate
from willfit.units import format_bytes
from willfit.web.show.pieces import VERDICTS, Standing, table, text, verdict

_ORDER: Final = {"fits": 0, "tight": 1, "does_not_fit": 2}


@dataclass(frozen=True, kw_only=True)
class OnGpu:
    """The job on one kind of GPU."""

    name: str
    """As ``--gpu`` takes it."""
    estimate: Estimate | None
    reason: str = ""
    """Why there is no estimate."""


def gpus_part(tried: Sequence[OnGpu], model: str) -> str:
    """The whole answer: those that hold it first, the smallest of them first."""
    ordered = sorted(tried, key=_rank)
    said, standing = said_of_gpus(tried, model)
    rows = (_row(one) for one in ordered)
    header = ("GPU", "Verdict", "Usable", "Needed", "To spare")
    return verdict(standing, said) + table("GPUs and whether the job fits", header, rows)


def said_of_gpus(tried: Sequence[OnGpu], model: str) -> tuple[str, Standing]:
    """The answer in a sentence, and how it stands."""
    holding = [one for one in sorted(tried, key=_rank) if _verdict(one) == "fits"]
    if not tried:
        return "No GPU has such a name and memory.", "unknown"
    if not holding:
        return _none(tried, model), "does_not_fit"
    smallest = holding[0].name
    return f"{model} fits on {len(holding)} of {len(tried)}; {smallest} is the smallest.", "fits"


def _none(tried: Sequence[OnGpu], model: str) -> str:
    """That none does, what it comes to where there is most room, and what to do."""
    count = (
        "The GPU does not hold" if len(tried) == 1 else f"None of {len(tried)} GPUs surely holds"
    )
    said = f"{count} {model} this way"
    numbered = [one for one in tried if one.estimate is not None and not one.estimate.unsupported]
    if not numbered:
        return f"{said}: there is no number for any."
    largest = max(numbered, key=lambda one: _rank(one)[1])
    assert largest.estimate is not None
    binding = largest.estimate.binding
    return (
        f"{said}: {format_bytes(binding.peak.device_bytes)} on each, and {largest.name} has "
        f"{format_bytes(binding.budget_bytes or 0)}. Several of a kind, or “Plan”, may do."
    )


def _verdict(one: OnGpu) -> str:
    return str(one.estimate.verdict) if one.estimate is not None else ""


def _rank(one: OnGpu) -> tuple[int, int, str]:
    budget = (one.estimate.binding.budget_bytes or 0) if one.estimate is not None else 0
    return _ORDER.get(_verdict(one), 3), budget, one.name


def _row(one: OnGpu) -> Sequence[str]:
    if one.estimate is None:
        return text(one.name), text(f"? {one.reason}"), "", "", ""
    return tuple(_cells(one.name, one.estimate))


def _cells(name: str, estimate: Estimate) -> Iterator[str]:
    binding = estimate.binding
    headroom = binding.headroom_bytes or 0
    yield text(name)
    yield text("? not known" if estimate.unsupported else VERDICTS[estimate.verdict or "fits"])
    yield format_bytes(binding.budget_bytes or 0)
    yield format_bytes(binding.peak.device_bytes)
    yield ("" if headroom >= 0 else "−") + format_bytes(abs(headroom))
