"""The planner: the cheapest changes that make a scenario fit, or the fastest way to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

from willfit.changes import Change, changes_for, in_order, why_not
from willfit.emitting import lines_to_change
from willfit.errors import InputError, WillfitError
from willfit.estimator import estimate
from willfit.planning.aim import aim_fastest, aim_smallest
from willfit.planning.clock import Clock
from willfit.planning.elsewhere import where_else
from willfit.planning.judge import Judge
from willfit.planning.remarks import remark_on
from willfit.planning.result import Goal, Job, Plan, Planning, Step
from willfit.planning.search import Candidate, Found
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.units import format_bytes

TOP: Final = 5
"""Plans that are shown where the user names no number."""

Estimating = Callable[[Scenario], Estimate]


def plan(
    scenario: Scenario,
    *,
    goal: Goal = "smallest-change",
    job: Job | None = None,
    top: int = TOP,
    trace: bool = False,
    changes: Sequence[Change] | None = None,
    estimating: Estimating | None = None,
) -> Planning:
    """The best plans first, each with its estimate.

    ``smallest-change``: minimal sets of changes that fit with the whole range of the estimate,
    ordered by quality, effort, number of changes and time. ``fastest``: by time. With ``trace``
    the baseline and the plans are traced, and what then does not fit is dropped. ``changes`` are
    those that may be made (default: all that apply); ``estimating`` stands in for `estimate`.
    Raises `InputError` without a machine, and what `estimate` raises for the baseline.
    """
    if scenario.machine is None:
        raise InputError("a plan is made for a GPU: name it with --gpu, such as --gpu T4")
    planner = _Planner(
        scenario=scenario,
        goal=goal,
        job=job or Job(),
        top=top,
        changes=tuple(
            changes
            if changes is not None
            else in_order(changes_for(scenario, spends=True, ahead=True))
        ),
        estimating=estimating or (lambda asked: estimate(asked, trace=trace)),
        traced=trace,
    )
    return planner.planning()


@dataclass(frozen=True, kw_only=True)
class _Planner:
    scenario: Scenario
    goal: Goal
    job: Job
    top: int
    changes: tuple[Change, ...]
    estimating: Estimating
    traced: bool

    @cached_property
    def judge(self) -> Judge:
        return Judge()

    @cached_property
    def clock(self) -> Clock:
        return Clock(job=self.job)

    @cached_property
    def estimates(self) -> dict[tuple[str, ...], Estimate]:
        return {}

    @property
    def baseline(self) -> Estimate:
        return self._estimate(())

    def planning(self) -> Planning:
        baseline = self.baseline
        found = self._search()
        plans = tuple(self._confirmed(found))
        return Planning(
            goal=self.goal,
            job=self.job,
            baseline=baseline,
            duration=self.clock.duration(self.scenario),
            plans=plans,
            why_none=None if plans else self._why_none(found),
            num_judged=self.judge.num_judged,
            not_applicable=dict(why_not(self.scenario)),
        )

    def _search(self) -> Found:
        """By the goal; the fastest too where a time limit cannot be met."""
        asked = (self.scenario, self.changes, self.judge, self.clock)
        if self.goal == "fastest":
            return aim_fastest(*asked, 2 * self.top)
        found = aim_smallest(*asked)
        late = all(self.clock.in_time(made.scenario) is False for made in found.candidates)
        if self.job.time_limit_seconds is None or not found.candidates or not late:
            return found
        return aim_fastest(*asked, 2 * self.top)

    def _confirmed(self, found: Found) -> Iterator[Plan]:
        """The first ``top`` of what was found, less what a trace refutes."""
        made = filter(None, map(self._plan, found.candidates[: 2 * self.top]))
        yield from islice(made, self.top)

    def _plan(self, candidate: Candidate) -> Plan | None:
        try:
            final = self._estimate(candidate.changes)
            peaks = list(self._peaks(candidate.changes, final))
        except WillfitError:
            return None
        if final.verdict == "does_not_fit":
            return None
        duration = self.clock.duration(candidate.scenario)
        total = duration.total_seconds if duration is not None else None
        rate = self.job.price_per_hour
        return Plan(
            steps=tuple(self._steps(candidate.changes, peaks)),
            scenario=candidate.scenario,
            estimate=final,
            quality=candidate.quality,
            relative_time=self.clock.relative(self.scenario, candidate.scenario),
            duration=duration,
            in_time=self.clock.in_time(candidate.scenario),
            price=total.nominal / 3600 * rate if total is not None and rate is not None else None,
        )

    def _steps(self, changes: tuple[Change, ...], peaks: Sequence[int]) -> Iterator[Step]:
        scenario = self.scenario
        for change, before, after in zip(changes, peaks, peaks[1:], strict=False):
            changed = _applied(scenario, [change])
            yield Step(
                change=change,
                saves_bytes=before - after,
                remark=remark_on(
                    change,
                    scenario,
                    before - after,
                    start=self.scenario,
                    changes=changes,
                    judge=self.judge,
                    time_of=self.clock.seconds,
                ),
                lines=_lines(scenario, changed),
            )
            scenario = changed

    def _peaks(self, changes: tuple[Change, ...], final: Estimate) -> Iterator[int]:
        """Peaks before the first change, between changes and after the last.

        What has no number between two changes that belong together counts as saving nothing yet.
        """
        peak = self.baseline.binding.peak.device_bytes
        yield peak
        for number in range(1, len(changes)):
            peak = self._peak(changes[:number]) or peak
            yield peak
        if changes:
            yield final.binding.peak.device_bytes

    def _peak(self, changes: tuple[Change, ...]) -> int | None:
        if self.traced:
            try:
                return self._estimate(changes).binding.peak.device_bytes
            except WillfitError:
                return None
        judged = self.judge(_applied(self.scenario, changes))
        return judged.peak_bytes if judged is not None else None

    def _estimate(self, changes: tuple[Change, ...]) -> Estimate:
        """The estimate after these changes, each computed once."""
        key = tuple(change.id for change in changes)
        if key not in self.estimates:
            self.estimates[key] = self.estimating(_applied(self.scenario, changes))
        return self.estimates[key]

    def _why_none(self, found: Found) -> str:
        if found.candidates:
            tried = ", then ".join(
                " with ".join(change.id for change in candidate.changes) or "nothing changed"
                for candidate in found.candidates[: self.top]
            )
            return f"by formula it fits with {tried}, and the trace finds that it does not"
        if found.closest is None:
            return "no trustworthy number can be given for any set of changes"
        candidate, judged = found.closest
        titles = ", ".join(change.id for change in candidate.changes) or "nothing changed"
        said = (
            f"at least {format_bytes(judged.over_bytes)} are too much whatever is changed, with "
            f"{titles}"
        )
        if judged.over_bytes == judged.peak_bytes - judged.budget_bytes:
            said += f" ({format_bytes(judged.peak_bytes)} of {format_bytes(judged.budget_bytes)})"
        else:
            said += ", for the GPUs and the host together have no room for the weights"
        as_asked = where_else(self.scenario, self.judge)
        changed = where_else(candidate.scenario, self.judge)
        if as_asked:
            said += f"; as asked it fits {as_asked}"
        if changed and changed != as_asked:
            said += f"; so changed {changed}"
        return said


def _applied(scenario: Scenario, changes: Sequence[Change]) -> Scenario:
    """The scenario with changes that the search applied in this order."""
    for change in changes:
        changed = change.apply(scenario)
        assert isinstance(changed, Scenario)
        scenario = changed
    return scenario


def _lines(before: Scenario, after: Scenario) -> tuple[str, ...]:
    """The code of a change; none where no code can be emitted for it."""
    try:
        return lines_to_change(before, after)
    except WillfitError:
        return ()
