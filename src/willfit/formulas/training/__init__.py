"""Training: forward, backward and the optimizer step."""

from __future__ import annotations

from willfit.formulas.training.phases import training_phases

__all__ = ["training_phases"]
