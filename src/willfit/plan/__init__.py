"""The cheapest sets of changes that fit, and how long the job then takes."""

from __future__ import annotations

from willfit.plan.plan import plan
from willfit.plan.result import Duration, Goal, Job, Plan, Planning, Step

__all__ = ["Duration", "Goal", "Job", "Plan", "Planning", "Step", "plan"]
