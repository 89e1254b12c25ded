"""A comparison on the page: who fits, what moved, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from willfit.comparing import Compared, Comparison, Difference
from willfit.report.palette import look, place
from willfit.results import Estimate
from willfit.units import format_bytes
from willfit.web.show.estimate import said_of
from willfit.web.show.pieces import (
    VERDICTS,
    bars,
    folded,
    heading,
    listed,
    remarks,
    table,
    text,
    verdict,
)


def comparison_part(comparison: Comparison) -> str:
    """The whole answer."""
    made = [side for side in comparison.entries if side.estimate is not None]
    drawn = [
        (side.label, side.estimate.binding)
        for side in made
        if side.estimate is not None and side.estimate.refused is None
    ]
    reasons = "".join(_difference(comparison.entries, one) for one in comparison.differences)
    return "".join(
        (
            verdict("known", said_of_comparison(comparison)),
            remarks(f"{side.label}: {side.reason}" for side in comparison.entries if side.reason),
            bars(drawn, "What fills the GPU at the peak of each") if drawn else "",
            table("Memory of each side at its peak", _header(comparison), _rows(comparison)),
            reasons,
            folded("What makes them hard to compare", listed(comparison.remarks)),
            folded("What was assumed of all", listed(comparison.same_assumptions)),
        )
    )


def said_of_comparison(comparison: Comparison) -> str:
    """The answer in a sentence: the least of all, and how far the largest is above it."""
    needs = sorted(
        (side.estimate.binding.peak.device_bytes, side.label)
        for side in comparison.entries
        if side.estimate is not None and side.estimate.refused is None
    )
    if len(needs) < 2:
        return "There is nothing to compare: fewer than two sides have a number."
    (least, smallest), (most, largest) = needs[0], needs[-1]
    if least == most:
        return f"All need the same: {format_bytes(least)}."
    more = format_bytes(most - least)
    return f"{smallest} needs least, {format_bytes(least)}; {largest} {more} more."


def _header(comparison: Comparison) -> Sequence[str]:
    return ("Part", *(side.label for side in comparison.entries))


def _rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    estimates = [side.estimate for side in comparison.entries]
    amounts = [_components(estimate) for estimate in estimates]
    names = sorted({name for found in amounts for name in found}, key=place)
    yield "verdict", *map(_verdict, comparison.entries)
    for name in names:
        seen = look(name)
        chip = f'<span class="wf-chip" style="background:{seen.color}"></span>{text(seen.words)}'
        yield chip, *(format_bytes(found[name]) if name in found else "–" for found in amounts)
    yield "<strong>in all</strong>", *map(_total, estimates)


def _components(estimate: Estimate | None) -> dict[str, int]:
    if estimate is None or estimate.refused is not None:
        return {}
    return {
        part.name: part.num_bytes for part in estimate.binding.peak.components if part.num_bytes
    }


def _verdict(side: Compared) -> str:
    return VERDICTS.get(side.verdict or "", "–")


def _total(estimate: Estimate | None) -> str:
    if estimate is None or estimate.refused is not None:
        return "–"
    return f"<strong>{format_bytes(estimate.binding.peak.device_bytes)}</strong>"


def _difference(sides: Sequence[Compared], difference: Difference) -> str:
    """How one side differs from the first: settings one at a time, and why."""
    side = sides[difference.index]
    rows = (
        (
            text(", ".join(f"{part.title}: {part.before} → {part.after}" for part in step.parts)),
            _signed(step.change_bytes),
        )
        for step in difference.steps
    )
    steps = (
        table(f"{side.label}: settings one at a time", ("Setting", "Moves"), rows)
        if difference.steps
        else ""
    )
    said = said_of(side.estimate) if side.estimate is not None else ""
    return (
        f'<section class="wf-card">{heading(side.label)}<p class="wf-more">{text(said)}</p>'
        f"{steps}{listed(difference.reasons)}</section>"
    )


def _signed(num_bytes: int) -> str:
    sign = "+" if num_bytes > 0 else "−" if num_bytes < 0 else ""
    return f"{sign}{format_bytes(abs(num_bytes))}"
