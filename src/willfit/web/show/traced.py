"""A traced run on the page: what the real code came to, and its memory over time."""

from __future__ import annotations

from willfit.report.peak import NARROW, WIDE
from willfit.report.phrases import OUTSIDE, failure_place
from willfit.report.timeline import Timelines, cards_of, timeline_svg
from willfit.results import Alive, Estimate
from willfit.units import format_bytes
from willfit.web.show.estimate import said_of
from willfit.web.show.pieces import folded, standing_of, table, text, verdict, widths


def traced_part(estimate: Estimate, timelines: Timelines) -> str:
    """Verdict, picture, and the largest tensors at the peak."""
    return (
        verdict(standing_of(estimate), said_of_traced(estimate), _failure(estimate))
        + _picture(estimate, timelines)
        + folded("Largest at the peak", _alive(estimate.largest_alive))
    )


def said_of_traced(estimate: Estimate) -> str:
    """The verdict in a sentence, with the level that it has."""
    said = said_of(estimate)
    return f"By trace: {said}" if estimate.level == "trace" else said


def _failure(estimate: Estimate) -> str:
    failure = estimate.failure
    if failure is None:
        return ""
    tried = format_bytes(failure.tried_bytes)
    return f"It would end in {failure.phase}, {failure_place(failure)}, asking for {tried}."


def _picture(estimate: Estimate, timelines: Timelines) -> str:
    if not timelines:
        return ""
    title = f"{estimate.scenario.model.id}: memory over the run"
    wide, narrow = (
        timeline_svg(timelines, title, cards=cards_of(estimate), width=width, embedded=True)
        for width in (WIDE, NARROW)
    )
    return widths(wide, narrow)


def _alive(alive: tuple[Alive, ...]) -> str:
    rows = (
        (
            text(item.module or OUTSIDE),
            format_bytes(item.num_bytes),
            str(item.count),
            text(item.phase),
        )
        for item in alive
    )
    header = ("Module", "Memory", "Number", "Made in")
    return table("The largest tensors at the peak", header, rows) if alive else ""
