"""One stage: made ready, what is missing computed, its memory back."""

from willfit.runner.stages.ready import Ready, make_ready
from willfit.runner.stages.run_stage import run_stage

__all__ = ["Ready", "make_ready", "run_stage"]
