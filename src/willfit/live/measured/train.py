"""Training for real: the trainer's own steps, or a plain loop's, each phase read and then timed."""

from __future__ import annotations

from willfit.formulas.training.settings import TrainingSettings, fill_training
from willfit.live.measured.infer import sdpa
from willfit.live.measured.loop import run_loop
from willfit.live.measured.steps import Steps
from willfit.live.measured.trainers import run_trainer
from willfit.live.meter import Meter
from willfit.scenario import Scenario


def run_training(
    scenario: Scenario, model: object, meter: Meter, notes: list[str], *, history: bool
) -> dict[str, float]:
    """Seconds of a step; the meter has the readings. ``history``: what was alive in step 2."""
    training = scenario.workload.training
    assert training is not None
    settings = fill_training(training, scenario.model.architecture, scenario.stack)
    steps = Steps(meter, history=history)
    with sdpa(training.sdpa_kernel):
        if training.trainer == "loop":
            run_loop(scenario, model, settings, meter, steps)
        else:
            run_trainer(scenario, model, settings, meter, steps, notes)
    return _seconds(steps, settings)


def _seconds(steps: Steps, settings: TrainingSettings) -> dict[str, float]:
    tokens = settings.tokens * settings.accumulation
    return {
        "optimizer_step": steps.whole,
        "tokens_per_second": tokens / steps.whole,
        "step_tokens": tokens,
        **steps.parts,
    }
