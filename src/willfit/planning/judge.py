"""Judge: whether a scenario fits, by how much it does not, and what it costs in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from willfit.errors import WillfitError
from willfit.estimator.evaluator import Evaluator
from willfit.estimator.outcome import Outcome
from willfit.planning.clock import Clock
from willfit.results import Verdict
from willfit.scenario import Scenario

OFFLOADS: Final = ("cpu", "disk")
"""Keys of ``max_memory`` by which a user asks for weights off the GPUs."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One scenario, judged."""

    verdict: Verdict
    peak_bytes: int
    """Device bytes at the peak of the GPU with the least headroom."""
    over_bytes: int
    """What is missing: peak − budget there, host RAM, or room for all weights on the GPUs. Negative
    is headroom."""
    budget_bytes: int = 0
    """Of that GPU."""
    high_over_bytes: int | None = None
    """What is missing if every unknown takes its largest effect: 0 or less where it fits; None is
    `over_bytes`."""

    @property
    def short_bytes(self) -> int:
        """What a search has to win before the whole range fits."""
        return self.over_bytes if self.high_over_bytes is None else self.high_over_bytes


JudgeOf = Callable[[Scenario], Judgement | None]
"""What a search asks of a scenario; None where there is no trustworthy number."""


class Judge:
    """Judges scenarios by formula and counts them."""

    def __init__(self) -> None:
        self._evaluator = Evaluator()
        self.num_judged = 0
        """Scenarios whose memory was computed."""

    def __call__(self, scenario: Scenario) -> Judgement | None:
        """None where no trustworthy number can be given, or the settings contradict each other."""
        self.num_judged += 1
        try:
            outcome = self._evaluator.outcome(scenario)
        except WillfitError:
            return None
        if outcome.unsupported:
            return None
        return judgement(scenario, outcome)


class Within:
    """Judges like another, and what takes longer than the clock allows does not fit either.

    Lateness counts as the same part of the memory's budget, so that a search can descend in it.
    """

    def __init__(self, judge: JudgeOf, clock: Clock) -> None:
        self._judge, self._clock = judge, clock

    def __call__(self, scenario: Scenario) -> Judgement | None:
        """None where the judge has no number."""
        judged, late = self._judge(scenario), self._clock.lateness(scenario)
        if judged is None or late <= 0:
            return judged
        over = max(judged.over_bytes, round(late * max(judged.budget_bytes, 1)), 1)
        short = max(judged.short_bytes, over)
        return replace(judged, verdict="does_not_fit", over_bytes=over, high_over_bytes=short)


def judgement(scenario: Scenario, outcome: Outcome) -> Judgement:
    """The worst GPU decides; so does host RAM where it was given, and weights left off the GPUs.

    ``device_map="auto"`` fits anything by leaving weights on the host. That is an answer only to
    those who asked for it.
    """
    binding = max(outcome.gpus, key=lambda gpu: -(gpu.headroom_bytes or 0))
    over = -(binding.headroom_bytes or 0)
    high_over = max(gpu.high_device_bytes - (gpu.budget_bytes or 0) for gpu in outcome.gpus)
    missing = max(_ram_missing(scenario, outcome), _left_off(scenario, outcome))
    verdicts = {gpu.verdict for gpu in outcome.gpus}
    verdict: Verdict = "fits"
    if outcome.refused or missing > 0 or "does_not_fit" in verdicts:
        verdict = "does_not_fit"
    elif "tight" in verdicts:
        verdict = "tight"
    return Judgement(
        verdict=verdict,
        peak_bytes=binding.peak.device_bytes,
        over_bytes=max(over, missing) if missing > 0 else over,
        high_over_bytes=max(high_over, missing) if missing > 0 else high_over,
        budget_bytes=binding.budget_bytes or 0,
    )


def _ram_missing(scenario: Scenario, outcome: Outcome) -> int:
    machine = scenario.machine
    if machine is None or machine.ram_bytes is None:
        return 0
    return outcome.host_bytes - machine.ram_bytes


def _left_off(scenario: Scenario, outcome: Outcome) -> int:
    asked = scenario.workload.loading.max_memory or {}
    return 0 if any(key in asked for key in OFFLOADS) else sum(outcome.off_gpu)
