"""How long a scenario takes: prefill, a decoded token, an optimizer step, as ranges of seconds."""

from __future__ import annotations

from willfit.errors import UnsupportedError
from willfit.estimator.speed.inference import time_inference
from willfit.estimator.speed.prepared import prepare
from willfit.estimator.speed.training import time_training
from willfit.formulas.timing.result import Limit, Timing
from willfit.formulas.timing.span import Span
from willfit.scenario import Scenario

__all__ = ["Limit", "Span", "Timing", "job_seconds", "relative_time", "timing"]


def timing(scenario: Scenario) -> Timing:
    """Seconds of a scenario by closed formulas, low and high ends included.

    What depends on the model alone is kept between calls. Raises `UnsupportedError` where the model
    has no formula or the workload is loading alone, `InputError` where a kernel asked for cannot
    run on the card.
    """
    workload = scenario.workload
    if workload.training is not None:
        return time_training(scenario, workload.training, prepare(scenario))
    if workload.inference is not None:
        return time_inference(scenario, workload.inference, prepare(scenario))
    raise UnsupportedError("loading has no time of its own here: name an inference or a training")


def job_seconds(timed: Timing, *, samples: int, epochs: float = 1.0, eval_samples: int = 0) -> Span:
    """A whole job: epochs over the samples, and evaluation (a forward pass) of others.

    Training: ⌈samples·epochs / samples a step⌉ steps. Inference: batches of prompts. Evaluation
    takes the forward part of a step for its samples. Loading and saving are not in it.
    """
    one = timed.step_seconds or timed.batch_seconds
    if one is None or not timed.samples_per_step:
        raise UnsupportedError("this workload has no samples to count")
    whole = one.times(-(-samples * epochs // timed.samples_per_step))
    if eval_samples and timed.step_seconds is not None:
        share = timed.parts.get("forward", 0.0) / max(sum(timed.parts.values()), 1e-12)
        whole = whole.plus(one.times(share * eval_samples / timed.samples_per_step))
    return whole


def relative_time(before: Timing, after: Timing) -> float:
    """Nominal time a sample takes after a change, over that before it."""
    if before.samples_per_second is None or after.samples_per_second is None:
        raise UnsupportedError("only two inferences or two trainings can be compared")
    return before.samples_per_second.nominal / after.samples_per_second.nominal
