"""A planning as text in 80 columns, and as the JSON contract ``willfit.plan/1``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from willfit.planning.result import Duration, Job, Plan, Planning
from willfit.report.contract import estimate_json, plain
from willfit.report.phrases import gpus_text, limits_text
from willfit.report.text import Style, bar, titled, wrapped
from willfit.results import Estimate
from willfit.units import GIB, format_bytes

SCHEMA: Final = "willfit.plan/1"
RAM_WORTH_SAYING: Final = 4 * GIB
"""Host memory that any machine with a GPU has."""
NOT_IN_TIME: Final = (
    "no plan is done in time, these are the fastest; 'willfit where' with the same settings shows "
    "where it is"
)
_VERDICT: Final = {
    "fits": ("fits as asked", "green"),
    "tight": ("is tight as asked", "yellow"),
    "does_not_fit": ("does not fit as asked", "red"),
}


def plan_json(planning: Planning, codes: Sequence[dict[str, str] | None] = ()) -> dict[str, Any]:
    """The contract's object; ``codes`` is the emitted code of each plan, where asked for."""
    padded = [*codes, *[None] * (len(planning.plans) - len(codes))]
    return {
        "schema": SCHEMA,
        "goal": planning.goal,
        "baseline": estimate_json(planning.baseline),
        "baseline_duration": _duration(planning.duration),
        "plans": [_plan(plan, code) for plan, code in zip(planning.plans, padded, strict=True)],
        "why_none": planning.why_none,
        "num_judged": planning.num_judged,
        "not_applicable": planning.not_applicable,
    }


def _plan(plan: Plan, code: dict[str, str] | None) -> dict[str, Any]:
    total = plan.duration.total_seconds if plan.duration is not None else None
    return {
        "changes": [
            {
                "id": step.change.id,
                "title": step.change.title,
                "saves_bytes": step.saves_bytes,
                "quality_cost": step.change.quality.name.lower(),
                "quality_reason": step.change.quality_reason,
                "remark": step.remark,
                "lines": list(step.lines),
            }
            for step in plan.steps
        ],
        "estimate": estimate_json(plan.estimate),
        "quality_cost": plan.quality.name.lower(),
        "relative_time": plan.relative_time,
        "total_time_seconds": total.nominal if total is not None else None,
        "duration": _duration(plan.duration),
        "in_time": plan.in_time,
        "price": plan.price,
        "code": code,
    }


def _duration(duration: Duration | None) -> dict[str, Any] | None:
    return None if duration is None else plain(duration)


def render_plan(planning: Planning, style: Style | None = None) -> str:
    """The whole report: what was asked, the plans, why none, what was assumed."""
    style = style or Style()
    lines = [*_asked(planning, style), ""]
    for number, plan in enumerate(planning.plans, start=1):
        lines += [*_shown(number, plan, planning, style), ""]
    if planning.plans and not planning.fits:
        lines += [*wrapped(NOT_IN_TIME, first="", rest="  "), ""]
    if planning.why_none is not None:
        lines += [*wrapped(planning.why_none, first="no plan fits: ", rest="  "), ""]
    lines += _remarks(planning)
    return "\n".join(lines).rstrip() + "\n"


def _asked(planning: Planning, style: Style) -> list[str]:
    baseline = planning.baseline
    binding, model = baseline.binding, baseline.scenario.model
    words, color = _VERDICT[baseline.verdict or "does_not_fit"]
    lines = [f"{style.paint(model.id, 'bold')} on {machine_text(baseline)}"]
    lines += [f"  {style.paint(words, color)}"]
    if baseline.refused is not None:
        lines += wrapped(baseline.refused, first="  refused: ", rest="    ")
    else:
        lines[-1] += f": {_against(baseline)}"
        parts = [part.num_bytes for part in binding.peak.components]
        lines.append(f"  {bar(parts, binding.budget_bytes or 1)}")
    if planning.duration is not None:
        lines += wrapped(time_text(planning.duration, planning.job, None), first="  ", rest="    ")
    return lines


def machine_text(estimate: Estimate) -> str:
    """``NVIDIA T4`` or ``2 × NVIDIA T4``, with its budget."""
    gpus = estimate.gpus
    return f"{gpus_text(gpus)}, {format_bytes(gpus[0].budget_bytes or 0)} usable"


def _against(estimate: Estimate) -> str:
    binding = estimate.binding
    headroom = binding.headroom_bytes or 0
    amount = format_bytes(binding.peak.device_bytes)
    where = f"{amount} in {binding.peak.name}" if binding.peak.name != "load" else amount
    if headroom < 0:
        return f"{where}, {format_bytes(-headroom)} too much"
    return f"{where}, headroom {format_bytes(headroom)}"


def _shown(number: int, plan: Plan, planning: Planning, style: Style) -> list[str]:
    level = "" if plan.estimate.level == "formula" else f", {plan.estimate.level}d"
    head = f"plan {number}: {style.paint(str(plan.estimate.verdict).replace('_', ' '), 'green')}"
    lines = [f"{head}{level}, {_against(plan.estimate)}, quality cost {plan.quality.name.lower()}"]
    for step in plan.steps:
        sign = "saves" if step.saves_bytes >= 0 else "takes"
        amount = f"{sign} {format_bytes(abs(step.saves_bytes))}"
        lines += wrapped(f"{amount:<17} {step.change.title}", first="  + ", rest=" " * 22)
        for text in filter(None, (step.remark, step.change.quality_reason)):
            lines += wrapped(text, first=" " * 24, rest=" " * 24)
    if not plan.steps:
        lines.append("  as it is")
    if plan.duration is not None:
        lines += wrapped(time_text(plan.duration, planning.job, plan), first="  ", rest="    ")
    ram = plan.estimate.host.ram_bytes
    if ram > RAM_WORTH_SAYING:
        lines.append(f"  host RAM: {format_bytes(ram)}")
    largest = limits_text(plan.estimate.limits)
    if largest:
        lines.append(f"  largest that fits then: {largest}")
    return lines


def time_text(duration: Duration, job: Job, plan: Plan | None) -> str:
    """``time: 13.2 s a sample (×1.32), 35.2 h for 55,000 samples…``."""
    unit = duration.unit_seconds
    said = f"time: {seconds_text(unit.nominal)} a {duration.unit}"
    if plan is not None and plan.relative_time is not None:
        said += f" (×{plan.relative_time:.2f})"
    total = duration.total_seconds
    if total is None:
        return said
    said += (
        f", {hours_text(total.nominal)} for {job.samples:,} samples"
        f" ({hours_text(total.low)} to {hours_text(total.high)})"
    )
    if job.epochs != 1:
        said += f" × {job.epochs:g} epochs"
    limit = job.time_limit_seconds
    if limit is not None:
        late = total.nominal > limit
        said += f", {'more than' if late else 'within'} the {hours_text(limit)} allowed"
    if plan is not None and plan.price is not None:
        said += f", at the price given {plan.price:,.2f}"
    return said


def seconds_text(seconds: float) -> str:
    """``12 ms``, ``3.4 s``, ``2,180 s``."""
    if seconds >= 1000:
        return f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def hours_text(seconds: float) -> str:
    """``35 min``, ``21.4 h``."""
    if seconds < 60:
        return seconds_text(seconds)
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _remarks(planning: Planning) -> list[str]:
    baseline = planning.baseline
    timed = planning.duration.assumptions if planning.duration is not None else ()
    lines = titled(
        (
            ("note", (f"{topic}: {text}" for topic, text in baseline.notes.items())),
            ("assumed", dict.fromkeys((*baseline.assumptions, *timed))),
            ("not supported", baseline.unsupported),
            ("ignored", baseline.ignored_settings),
        )
    )
    level = "judged by formula; --trace runs the real code of what is recommended"
    if baseline.level == "trace":
        level = "judged by formula, what is shown traced"
    sets = "set" if planning.num_judged == 1 else "sets"
    lines += wrapped(f"{planning.num_judged:,} {sets} of changes {level}", first="", rest="  ")
    return lines
