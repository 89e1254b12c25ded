"""A planning as a page of its own: what was asked, then each plan with the code to copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from willfit.planning.result import Plan, Planning, Step
from willfit.report.html.markup import Html, code, element, folded, listing, section, table
from willfit.report.html.page import figure, page, verdict
from willfit.report.html.parts import breakdowns, machine_name, remarks, said_of, settings
from willfit.report.peak import Side, peak_drawing, sides_of
from willfit.report.phrases import limits_text
from willfit.report.plan import NOT_IN_TIME, RAM_WORTH_SAYING, plan_json, time_text
from willfit.units import format_bytes

Codes = Sequence[Mapping[str, str] | None]
"""Emitted code of each plan, ``{"target", "text"}``; None where there is none."""


def plan_html(planning: Planning, codes: Codes = (), *, command: str = "") -> str:
    """The whole report; ``codes`` is the emitted code of each plan, where asked for."""
    baseline = planning.baseline
    title = plan_title(planning)
    given = [None if made is None else dict(made) for made in codes]
    padded = [*given, *[None] * (len(planning.plans) - len(given))]
    shown = zip(planning.plans, padded, strict=True)
    return page(
        title,
        _answer(planning),
        section("As asked, and after each plan", _picture(planning, title)),
        *(_plan(number, plan, planning, made) for number, (plan, made) in enumerate(shown, 1)),
        section("What fills the GPU as asked", breakdowns(baseline)),
        remarks(baseline),
        _others(planning),
        settings(baseline),
        data=plan_json(planning, given),
        command=command,
    )


def _answer(planning: Planning) -> Html:
    baseline = planning.baseline
    lines = [verdict(f"as asked: {said_of(baseline)}", baseline.verdict)]
    if planning.plans and planning.plans[0].steps:
        first = planning.plans[0]
        titles = ", and ".join(_lowered(step.change.title) for step in first.steps)
        lines.append(verdict(f"after plan 1: {said_of(first.estimate)}", first.estimate.verdict))
        lines.append(element("p", f"Plan 1: {titles}."))
    if planning.why_none is not None:
        lines.append(element("p", f"No plan fits: {planning.why_none}."))
    if planning.plans and not planning.fits:
        lines.append(element("p", NOT_IN_TIME[:1].upper() + NOT_IN_TIME[1:] + "."))
    if planning.duration is not None:
        lines.append(element("p", f"As asked, {time_text(planning.duration, planning.job, None)}."))
    return Html("".join(lines))


def _lowered(title: str) -> str:
    return title[:1].lower() + title[1:]


def plan_title(planning: Planning) -> str:
    """``Plans for MODEL on GPU``."""
    return f"Plans for {planning.baseline.scenario.model.id} on {machine_name(planning.baseline)}"


def plan_sides(planning: Planning) -> list[Side]:
    """A bar as asked and one after each plan."""
    sides = [] if planning.baseline.refused else sides_of(planning.baseline, "As asked")
    for number, plan in enumerate(planning.plans, 1):
        sides += sides_of(plan.estimate, f"Plan {number}: {_named(plan)}")
    return sides


def _picture(planning: Planning, title: str) -> Html:
    sides = plan_sides(planning)
    return figure(lambda width: peak_drawing(sides, title, width=width, titled=False))


def _plan(number: int, plan: Plan, planning: Planning, made: dict[str, str] | None) -> Html:
    rows = [_row(step) for step in plan.steps]
    header = ("change", "saves", "quality cost")
    content = [
        verdict(said_of(plan.estimate), plan.estimate.verdict),
        element(
            "p", f"Quality cost: {plan.quality.name.lower()}. {' '.join(_more(plan, planning))}"
        ),
        table(f"Changes of plan {number}, in their order", header, rows, words=1),
        listing(_meanings(plan)),
        *_snippets(plan),
    ]
    if made is not None:
        content.append(folded(f"All of the code, for {made['target']}", code(made["text"])))
    return section(f"Plan {number}: {_named(plan)}", *content)


def _named(plan: Plan) -> str:
    return ", ".join(step.change.id for step in plan.steps) or "as it is"


def _row(step: Step) -> tuple[str, str, str]:
    cost = step.change.quality.name.lower()
    return (step.change.title, format_bytes(step.saves_bytes), cost)


def _meanings(plan: Plan) -> Iterator[str]:
    """What is to be said of a change in this scenario, and of what it does to the result."""
    for step in plan.steps:
        for text in filter(None, (step.remark, step.change.quality_reason)):
            yield f"{step.change.id}: {text}"


def _more(plan: Plan, planning: Planning) -> Iterator[str]:
    """Sentences on time, host memory and limits."""
    if plan.duration is not None:
        said = time_text(plan.duration, planning.job, plan)
        yield said[:1].upper() + said[1:] + "."
    if plan.estimate.host.ram_bytes > RAM_WORTH_SAYING:
        yield f"Host RAM: {format_bytes(plan.estimate.host.ram_bytes)}."
    largest = limits_text(plan.estimate.limits)
    if largest:
        yield f"Largest that fits then: {largest}."


def _snippets(plan: Plan) -> Iterator[Html]:
    lines = [line for step in plan.steps for line in step.lines]
    if lines:
        yield element("p", "Lines to add or alter:")
        yield code("\n".join(lines))


def _others(planning: Planning) -> Html:
    """How far the search went, and what was no candidate."""
    timed = planning.duration.assumptions if planning.duration is not None else ()
    rows = list(planning.not_applicable.items())
    judged = f"{planning.num_judged:,} sets of changes were judged by formula."
    skipped = table("Changes that were no candidates", ("change", "why not"), rows, words=1)
    return section(
        "How it was searched",
        element("p", judged),
        listing(timed),
        folded("What was no candidate", skipped) if rows else "",
    )
