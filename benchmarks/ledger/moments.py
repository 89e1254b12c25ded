"""What is allocated at one moment of a job, for sources that read the counter there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator
from willfit.devices import cublas_workspace_bytes
from willfit.estimator.outcome import load
from willfit.estimator.replay import placed
from willfit.formulas.training import static
from willfit.formulas.training.phases import training_step
from willfit.formulas.training.step import Step
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.scenario.workload import Strategy
from willfit.trace.recording import EMPTY_CACHE, Event, Recording

Moment = Literal["loaded", "forward", "backward", "end_of_step", "end"]
"""Right after the model is on the device; after the first forward pass, with its outputs alive;
after the first backward pass, with outputs and gradients alive; after the optimizer's step, with
its states too, where a loop reads the counter before it empties the cache; after the last step,
where what is read is the reserved memory: a full device has been given segments back."""


class StepEnd(NamedTuple):
    """Bytes at the end of a step, right before the cache is emptied."""

    allocated: int
    reserved: int


def step_ends(recording: Recording) -> tuple[StepEnd, ...]:
    """What there is each time that a plain loop empties the cache."""
    allocator = Allocator(parse_alloc_conf(""))
    ends: list[StepEnd] = []
    held = StepEnd(0, 0)
    for event, _ in placed(recording.events, allocator):
        if event.handle == EMPTY_CACHE:
            ends.append(held)
        held = StepEnd(allocator.allocated_bytes, allocator.reserved_bytes)
    return tuple(ends)


def reserved_at_end(recording: Recording, alloc_conf: str, capacity_bytes: int | None) -> int:
    """Segments still held after the last event; raises `SimulatedOutOfMemory` on its way there."""
    allocator = Allocator(parse_alloc_conf(alloc_conf), capacity_bytes=capacity_bytes)
    for _ in placed(recording.events, allocator):
        pass
    return allocator.reserved_bytes


def moments_traced(recording: Recording) -> dict[Moment, int]:
    """Allocated bytes at each moment that the recording has."""
    found: dict[Moment, int] = {}
    inside = False
    held = 0
    for event, now in _allocated(recording):
        if event.phase != "load":
            found.setdefault("loaded", held)
        if event.phase in ("prefill", "forward"):
            returned = inside and bool(event.num_bytes) and not event.place.module
            if event.phase == "prefill" and returned:
                found["forward"] = held  # `generate` works on what the model returned
            inside = bool(event.place.module) if event.num_bytes else inside
        if event.phase == "backward":
            found.setdefault("forward", held)
        if event.phase in ("clip", "step"):
            found.setdefault("backward", held)
        held = now
    return {"loaded": held, **found}


def _allocated(recording: Recording) -> Iterator[tuple[Event, int]]:
    """Each event with what is allocated after it."""
    allocator = Allocator(parse_alloc_conf(""))
    for event, _ in placed(recording.events, allocator):
        yield event, allocator.allocated_bytes


def moment_by_formula(scenario: Scenario, estimate: Estimate, moment: Moment) -> int:
    """The sum of what the formulas say is alive then."""
    if moment == "end":
        return estimate.binding.peak.reserved_bytes
    if scenario.workload.training is not None:
        return _training_moment(scenario, moment)
    phase = next(
        phase
        for phase in estimate.binding.phases
        if phase.name == "load" or (moment != "loaded" and phase.name == "prefill")
    )
    if moment != "loaded":
        phase = next(phase for phase in estimate.binding.phases if phase.name == "prefill")
    alive = ("weights", "quantization_state", "kv_cache", "logits", "workspaces")
    return sum(part.num_bytes for part in phase.components if part.name in alive)


def step_of(scenario: Scenario, strategy: Strategy = "ddp", num_gpus: int = 1) -> Step:
    """The formulas' training step on the first GPU, one rank's under a strategy."""
    training = scenario.workload.training
    assert training is not None
    share = load(scenario).split.shares[0]
    step, _ = training_step(
        scenario.model, training, share.gpu, scenario.stack, share.weights,
        strategy=strategy, num_gpus=num_gpus,
    )  # fmt: skip
    return step


def _training_moment(scenario: Scenario, moment: Moment) -> int:
    """Weights; and activations, logits and a workspace; or gradients, outputs and two workspaces.

    The end of a step has the optimizer's states too. Activations include K and V, which ``outputs``
    keeps past backward.
    """
    gpu = load(scenario).split.shares[0].gpu
    step = step_of(scenario)
    held = step.sharded.weights + step.weights.state_allocated_bytes
    if step.adapter is not None:
        held += static.total_bytes(step.trainables)
    workspace = cublas_workspace_bytes(gpu)
    if moment == "forward":
        held += step.kept_bytes() + step.kept_logits() + workspace
    if moment in ("backward", "end_of_step"):
        held += step.sharded.gradients + step.kept_with_outputs() + step.kept_logits()
        held += 2 * workspace
    if moment == "end_of_step":
        held += step.sharded.optimizer_states
    return held
