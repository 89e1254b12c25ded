"""What to change: the planner's changes for a scenario, and what only a person can do."""

from willfit.doctor.advice.advice import Advice, advise

__all__ = ["Advice", "advise"]
