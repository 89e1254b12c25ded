"""Better: the smallest change at each machine, what was found out never searched again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from willfit.changes import Change, Quality
from willfit.errors import WillfitError
from willfit.plan.judge import Judge
from willfit.plan.quick import quickest_search
from willfit.plan.result import Job
from willfit.plan.where import Best, plain_estimate
from willfit.scenario import Machine, Scenario


@dataclass(frozen=True, kw_only=True)
class _Known:
    machine: Machine
    job: Job
    best: Best | None


@dataclass(kw_only=True)
class Better:
    """Finds the smallest change of one job on machine after machine."""

    judge: Judge = field(default_factory=Judge)
    known: list[_Known] = field(default_factory=list)

    def __call__(self, scenario: Scenario, job: Job) -> Best | None:
        """The change for the scenario's machine; None where none makes it fit."""
        machine = scenario.machine
        assert machine is not None
        for known in self.known:
            if known.job == job and _answers(known, machine):
                return known.best
        best = self._search(scenario, job)
        self.known.append(_Known(machine=machine, job=job, best=best))
        return best

    def _search(self, scenario: Scenario, job: Job) -> Best | None:
        found = quickest_search(scenario, job, self.judge)
        if found is None:
            return None
        with contextlib.suppress(WillfitError):
            return Best(
                scenario=found.scenario,
                estimate=plain_estimate(found.scenario),
                changes=tuple(_title(change) for change in found.changes),
            )
        return None


def _title(change: Change) -> str:
    felt = change.quality == Quality.REAL
    return change.title + (" (this is felt: check the result)" if felt else "")


def _answers(known: _Known, machine: Machine) -> bool:
    """Whether the machine is the same, or no larger than one on which nothing fits.

    The latter of memory alone: a smaller GPU may be faster.
    """
    other = known.machine
    if replace(machine, internet=other.internet) == other:
        return True
    if known.best is not None or known.job.time_limit_seconds is not None:
        return False
    host_is_open = other.ram_bytes is None and other.disk_bytes is None
    return host_is_open and _no_larger(machine, other)


def _no_larger(machine: Machine, other: Machine) -> bool:
    """No GPU more, none with more memory, none newer."""
    least = min(other.budget_bytes(index) for index in range(len(other.gpus)))
    most = max(machine.budget_bytes(index) for index in range(len(machine.gpus)))
    newest, oldest = max(gpu.sm for gpu in machine.gpus), min(gpu.sm for gpu in other.gpus)
    return len(machine.gpus) <= len(other.gpus) and most <= least and newest <= oldest
