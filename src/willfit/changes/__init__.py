"""The remedies, one shape: each a function of a scenario, named by the setting it changes."""

from __future__ import annotations

from willfit.changes.catalogue import CHANGES, apply_all, changes_for, why_not
from willfit.changes.change import Apply, Change, Effort, NotApplicable, Quality

__all__ = [
    "CHANGES",
    "Apply",
    "Change",
    "Effort",
    "NotApplicable",
    "Quality",
    "apply_all",
    "changes_for",
    "why_not",
]
