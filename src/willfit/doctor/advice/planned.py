"""The planner's answer as remedies, the cheapest of a plan first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from willfit.changes import Change
from willfit.doctor.diagnosis import Remedy
from willfit.emitting import lines_to_change
from willfit.errors import WillfitError
from willfit.estimator.evaluator import Evaluator
from willfit.planning import plan
from willfit.planning.clock import Clock
from willfit.planning.judge import Judge
from willfit.planning.remarks import remark_on
from willfit.planning.result import Job, Plan
from willfit.scenario import Scenario

PLANS: Final = 3
"""Plans that are asked for."""
REORDERED: Final = 5
"""Longest plan whose orders are all tried."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Remedies of the plans, and why there are none where there are none."""

    remedies: tuple[Remedy, ...]
    why_none: str | None
    plans: Mapping[int, tuple[Scenario, Scenario]]
    """The scenario before and after all remedies of a plan, by its number."""


def planned(scenario: Scenario) -> Planned:
    """Remedies for a scenario that does not fit: those of the best plan, then of the next.

    Raises `WillfitError` where the scenario has no number.
    """
    planning = plan(scenario, top=PLANS)
    remedies: list[Remedy] = []
    plans: dict[int, tuple[Scenario, Scenario]] = {}
    said: set[str] = set()
    for number, made in enumerate(planning.plans, start=1):
        steps = list(_steps(scenario, made))
        if all(step.change.id in said for step in steps):
            continue
        said |= {step.change.id for step in steps}
        remedies += [_remedy(step, made, number) for step in steps]
        if steps:
            plans[number] = steps[0].before, steps[-1].after
    return Planned(remedies=tuple(remedies), why_none=planning.why_none, plans=plans)


@dataclass(frozen=True, kw_only=True)
class _Step:
    change: Change
    before: Scenario
    after: Scenario
    saves_bytes: int
    remark: str


def _steps(scenario: Scenario, made: Plan) -> Iterator[_Step]:
    """The changes of a plan by what they cost a user, each with what it then saves."""
    evaluator, start = Evaluator(), scenario
    judge, clock = Judge(), Clock(job=Job())
    changes = _cheapest_first(scenario, [step.change for step in made.steps])
    for change in changes:
        after = change.apply(scenario)
        assert isinstance(after, Scenario)
        saves_bytes = _peak(scenario, evaluator) - _peak(after, evaluator)
        yield _Step(
            change=change,
            before=scenario,
            after=after,
            saves_bytes=saves_bytes,
            remark=remark_on(
                change,
                scenario,
                saves_bytes,
                start=start,
                changes=changes,
                judge=judge,
                time_of=clock.seconds,
            ),
        )
        scenario = after


def _peak(scenario: Scenario, evaluator: Evaluator) -> int:
    outcome = evaluator.outcome(scenario)
    binding = max(outcome.gpus, key=lambda gpu: -(gpu.headroom_bytes or 0))
    return binding.peak.device_bytes


def _cheapest_first(scenario: Scenario, changes: Sequence[Change]) -> Sequence[Change]:
    """By quality, effort and time; a change that needs another comes after it."""
    clock = Clock(job=Job())

    def cost(change: Change) -> tuple[int, int, float]:
        after = change.apply(scenario)
        time = clock.relative(scenario, after) if isinstance(after, Scenario) else None
        return change.quality, change.effort, round(time or 1.0, 2)

    wanted = sorted(changes, key=cost)
    orders = permutations(wanted) if len(wanted) <= REORDERED else iter([tuple(wanted)])
    return next((order for order in orders if _applies(scenario, order)), tuple(changes))


def _applies(scenario: Scenario, order: Sequence[Change]) -> bool:
    """Whether the changes can be made in this order and each has a number after it."""
    evaluator = Evaluator()
    for change in order:
        after = change.apply(scenario)
        if not isinstance(after, Scenario):
            return False
        try:
            evaluator.outcome(after)
        except WillfitError:
            return False
        scenario = after
    return True


def _remedy(step: _Step, made: Plan, number: int) -> Remedy:
    try:
        lines = tuple(
            line
            for line in lines_to_change(step.before, step.after)
            if not line.startswith("# without: #")  # a remark of the script that is not the user's
        )
    except WillfitError:
        lines = ()
    title = f"{step.change.title}; {step.remark}" if step.remark else step.change.title
    return Remedy(
        id=step.change.id,
        title=title,
        saves_bytes=step.saves_bytes,
        snippet="\n".join(lines),
        quality=step.change.quality.name.lower(),
        relative_time=made.relative_time,
        plan=number,
    )
