"""What is to be said of a change in a plan, and of one that saves nothing what it is for."""

from __future__ import annotations

from collections.abc import Sequence

from willfit.changes import Change
from willfit.planning.judge import Judgement, JudgeOf
from willfit.planning.search import Candidate, TimeOf, applied
from willfit.scenario import Scenario
from willfit.units import format_bytes


def remark_on(
    change: Change,
    before: Scenario,
    saves_bytes: int,
    *,
    start: Scenario,
    changes: Sequence[Change],
    judge: JudgeOf,
    time_of: TimeOf,
) -> str:
    """For people; empty where nothing is to be said.

    ``before`` is the scenario that the change is made to, ``start`` the one before all ``changes``
    of the plan, which are in the order of their application. What saves nothing where it stands
    says why it is there (`why_needed`).
    """
    own = change.remark(before) if change.remark is not None else ""
    needed = why_needed(change, start, changes, judge, time_of) if saves_bytes <= 0 else ""
    return "; ".join(filter(None, (own, needed)))


def why_needed(
    change: Change, start: Scenario, changes: Sequence[Change], judge: JudgeOf, time_of: TimeOf
) -> str:
    """What the plan comes to without one of its changes.

    What saves nothing at the peak may be needed by a change after it, for the whole range to fit,
    or for time. Empty where it is needed for none of them, or no trustworthy number says so.
    """
    first = Candidate(changes=(), scenario=start, time_of=time_of)
    whole = applied(first, changes)
    without = applied(first, [other for other in changes if other is not change])
    if without is None or whole is None:
        return "what comes after it applies only with it"
    judged = judge(without.scenario)
    if judged is None:
        return ""
    if judged.verdict != "fits":
        return _too_much(judged)
    ratio = without.seconds / whole.seconds if whole.seconds > 0 else 1.0
    return f"without it the job takes ×{ratio:.2f} the time" if ratio >= 1.01 else ""


def _too_much(judged: Judgement) -> str:
    if judged.over_bytes > 0:
        return f"without it {format_bytes(judged.over_bytes)} are too much"
    return (
        f"for what is not known: without it up to {format_bytes(judged.short_bytes)} "
        "may be too much"
    )
