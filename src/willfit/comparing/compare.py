"""``compare``: the door. Sides in, what they share and how each differs from the first out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from willfit.comparing.facts import differing_facts, equal_facts
from willfit.comparing.fairness import remarks, same_assumptions
from willfit.comparing.moved import components_of, equal_in_all, moved
from willfit.comparing.reasons import reasons
from willfit.comparing.result import Compared, Comparison, Difference
from willfit.comparing.settings import differing
from willfit.comparing.steps import Walk, shortest_walk
from willfit.results import Estimate


def compare(entries: Sequence[Compared], *, shared: str = "") -> Comparison:
    """Every side against the first: components, settings one at a time, and why.

    Uses the formulas between the sides, so it takes some milliseconds for each setting that
    differs; it measures nothing (see `measured.run_sides`).
    """
    made = [entry.estimate for entry in entries if entry.estimate is not None]
    models = [estimate.scenario.model for estimate in made]
    first = entries[0].estimate if entries else None
    differences = [
        _difference(index, first, entry.estimate)
        for index, entry in islice(enumerate(entries), 1, None)
        if first is not None and entry.estimate is not None
    ]
    peaks = [components_of(estimate) for estimate in made if estimate.refused is None]
    return Comparison(
        entries=tuple(entries),
        shared=shared,
        differences=tuple(differences),
        facts=differing_facts(models),
        same_facts=equal_facts(models) if len(models) > 1 else {},
        same_components=equal_in_all(peaks) if len(peaks) > 1 else {},
        same_assumptions=same_assumptions(entries),
        remarks=remarks(entries),
    )


def _difference(index: int, first: Estimate, other: Estimate) -> Difference:
    components = moved(components_of(first), components_of(other))
    known = bool(first.scenario.model.tensors and other.scenario.model.tensors)
    settings = differing(first.scenario, other.scenario) if known else ()
    walked = shortest_walk(first.scenario, settings)
    return Difference(
        index=index,
        components=components,
        change_bytes=other.binding.peak.device_bytes - first.binding.peak.device_bytes,
        steps=walked.steps,
        reasons=_reasons(first, other, walked) if any(s.is_model for s in settings) else (),
    )


def _reasons(first: Estimate, other: Estimate, walked: Walk) -> tuple[str, ...]:
    """Of the model alone where that can be told apart from the settings, else of all together."""
    a, b = walked.around_model or (first, other)
    return reasons(a, b, moved(components_of(a), components_of(b)))
