"""Plans on the page: what each saves and costs, and the code that carries it out."""

from __future__ import annotations

from collections.abc import Sequence

from willfit.planning.result import Duration, Plan, Planning, Step
from willfit.report.peak import Side
from willfit.report.phrases import limits_text
from willfit.report.plan import hours_text, machine_text, seconds_text
from willfit.units import format_bytes
from willfit.web.show.estimate import phase_words, said_of
from willfit.web.show.pieces import (
    Standing,
    bars,
    code,
    folded,
    heading,
    listed,
    remarks,
    table,
    text,
    verdict,
)

Code = tuple[str, str]
"""Target and text."""


def plan_part(planning: Planning, codes: Sequence[Code]) -> str:
    """The whole answer; ``codes`` has one for each plan."""
    baseline = planning.baseline
    asked = said_of(baseline)
    as_asked = f"As asked: {asked[:1].lower()}{asked[1:]} {_time_of(planning)}"
    standing: Standing = "fits" if planning.plans else "does_not_fit"
    head = verdict(standing, said_of_plans(planning), as_asked)
    cards = "".join(
        _card(number, plan, planning, codes[number - 1])
        for number, plan in enumerate(planning.plans, start=1)
    )
    sets = "set" if planning.num_judged == 1 else "sets"
    judged = f"{planning.num_judged:,} {sets} of changes were judged, by formula"
    return head + _late(planning) + _picture(planning) + cards + _assumed(planning, judged)


def said_of_plans(planning: Planning) -> str:
    """The answer in a sentence."""
    if not planning.plans:
        return f"No plan fits: {(planning.why_none or 'nothing was found').rstrip('.')}."
    first = planning.plans[0]
    if not first.steps:
        return "It fits as it is."
    others = len(planning.plans) - 1
    more = f" Other plans: {others}." if others else ""
    return f"It fits with {_changes(len(first.steps))}.{more}"


def _changes(count: int) -> str:
    return "one change" if count == 1 else f"{count} changes"


def _late(planning: Planning) -> str:
    if planning.plans and not planning.fits:
        return remarks(("no plan is done in time: these are the fastest",))
    return ""


def _picture(planning: Planning) -> str:
    sides: list[Side] = [("as asked", planning.baseline.binding)]
    sides += [
        (f"plan {number}", plan.estimate.binding)
        for number, plan in enumerate(planning.plans, start=1)
        if plan.steps
    ]
    if planning.baseline.refused is not None:
        sides = sides[1:]
    title = f"{planning.baseline.scenario.model.id} on {machine_text(planning.baseline)}"
    return bars(sides, title) if sides else ""


def _card(number: int, plan: Plan, planning: Planning, written: Code) -> str:
    target, script = written
    return (
        f'<section class="wf-card" aria-label="Plan {number}">{heading(_title(number, plan))}'
        f'<p class="wf-more">{text(_facts(plan, planning))}</p>{_steps(number, plan.steps)}'
        f"{folded(f'Code of plan {number} ({target})', code(script, f'code of plan {number}'))}"
        "</section>"
    )


def _title(number: int, plan: Plan) -> str:
    if not plan.steps:
        return f"Plan {number}: as it is"
    return f"Plan {number}: {_changes(len(plan.steps))}"


def _facts(plan: Plan, planning: Planning) -> str:
    binding = plan.estimate.binding
    peak = binding.peak
    words = str(plan.estimate.verdict).replace("_", " ")
    parts = [
        f"{words}: {format_bytes(peak.device_bytes)} {phase_words(peak.name)}, "
        f"{format_bytes(binding.headroom_bytes or 0)} to spare",
        f"quality cost {plan.quality.name.lower()}",
    ]
    if plan.duration is not None:
        parts.append(_time(plan.duration, planning, plan.relative_time))
    largest = limits_text(plan.estimate.limits)
    if largest:
        parts.append(f"largest that fits then: {largest}")
    return "; ".join(parts) + "."


def _steps(number: int, steps: Sequence[Step]) -> str:
    """A row for each change; the savings add up to what the plan saves."""
    if not steps:
        return ""
    rows = ((_change(step), _saved(step.saves_bytes)) for step in steps)
    return table(f"Plan {number}: changes and what each saves", ("Change", "Saves"), rows)


def _saved(num_bytes: int) -> str:
    return format_bytes(num_bytes) if num_bytes >= 0 else f"takes {format_bytes(-num_bytes)}"


def _change(step: Step) -> str:
    more = "; ".join(filter(None, (step.remark, step.change.quality_reason)))
    return text(step.change.title) + (f"<br><small>{text(more)}</small>" if more else "")


def _time_of(planning: Planning) -> str:
    return "" if planning.duration is None else _time(planning.duration, planning, None) + "."


def _time(duration: Duration, planning: Planning, relative: float | None) -> str:
    said = f"{seconds_text(duration.unit_seconds.nominal)} a {duration.unit}"
    said += f" (×{relative:.2f})" if relative is not None else ""
    total = duration.total_seconds
    if total is None:
        return said
    rows = f"{planning.job.samples:,} rows"
    return (
        f"{said}, {hours_text(total.nominal)} for {rows} "
        f"({hours_text(total.low)} to {hours_text(total.high)})"
    )


def _assumed(planning: Planning, judged: str) -> str:
    baseline = planning.baseline
    timed = planning.duration.assumptions if planning.duration is not None else ()
    said = dict.fromkeys((*baseline.unsupported, *baseline.assumptions, *timed, judged))
    return folded("What was assumed", listed(said))
