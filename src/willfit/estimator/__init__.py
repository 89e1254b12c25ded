"""One door: a scenario in, an estimate out, at formula level."""

from __future__ import annotations

from willfit.estimator.estimate import estimate

__all__ = ["estimate"]
