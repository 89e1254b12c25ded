"""A quick search, for many places: the cheapest one or two changes, or a descent to more."""

from __future__ import annotations

from typing import Final

from willfit.changes import changes_for
from willfit.plan.aim import aim_smallest
from willfit.plan.clock import Clock
from willfit.plan.judge import Judge
from willfit.plan.result import Job
from willfit.plan.search import Candidate
from willfit.scenario import Scenario

MOST_CHANGES: Final = 2
"""Changes of a set that every set is looked at of; `plan` looks at larger ones."""


def quickest_search(scenario: Scenario, job: Job, judge: Judge) -> Candidate | None:
    """The cheapest set of changes that fits, in time where that can be; None where none fits."""
    changes = changes_for(scenario, spends=job.time_limit_seconds is not None)
    found = aim_smallest(scenario, changes, judge, Clock(job=job), most_changes=MOST_CHANGES)
    return found.candidates[0] if found.verdict == "fits" else None
