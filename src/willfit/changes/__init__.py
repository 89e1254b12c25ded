"""The remedies, one shape: each a function of a scenario, named by the setting it changes."""

from __future__ import annotations

from willfit.changes.change import Apply, Change, Effort, NotApplicable, Quality

__all__ = ["Apply", "Change", "Effort", "NotApplicable", "Quality"]
