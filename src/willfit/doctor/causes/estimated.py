"""Estimated: the cause by the components of the user's own scenario."""

from __future__ import annotations

from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, guess, likely
from willfit.doctor.causes.facts import Facts
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.report import Report
from willfit.units import GIB

FIXED: Final = ("weights", "quantization_state", "adapters", "cuda_context", "other_processes")
"""Parts that no batch, length or optimizer changes."""
STATES: Final = ("optimizer_states", "gradients", "master_weights")
CAUSES: Final = {
    "activations": "activations_batch_seq",
    "temporaries": "activations_batch_seq",
    "logits": "logits_vocab",
    "optimizer_states": "optimizer_states",
    "gradients": "optimizer_states",
    "kv_cache": "kv_cache",
    "attention": "attention_quadratic",
    "communication": "nccl_buffers",
    "workspaces": "library_workspace",
    "fragmentation": "fragmentation",
}
"""Component of an estimate → the cause that it stands for."""
MOST: Final = 0.9
"""Weights that take this part of a GPU leave no room to work in inference."""
SURPLUS: Final = 0.15
"""Tensors beyond the estimate by this part of it, and by a GiB, are not of this scenario."""


def cause_by(report: Report, facts: Facts) -> Cause | None:
    """The component that decides; None where the estimate has none."""
    return _surplus(report, facts) or _fixed(report, facts) or _roomy(report, facts)


def _surplus(report: Report, facts: Facts) -> Cause | None:
    """More in live tensors than the scenario ever has: something of before is still there."""
    allocated = Numbers(report).allocated
    outside = facts.components.get("cuda_context", 0) + facts.components.get("other_processes", 0)
    expected = facts.peak_device_bytes - outside
    if allocated is None or allocated - expected <= max(GIB, int(SURPLUS * expected)):
        return None
    if facts.explained_by:
        return guess(facts.explained_by)
    text = worked_out(allocated, ("−", expected, "estimated"))
    return likely(
        "leak_previous",
        f"{text} in tensors of this process is not of this scenario: an "
        "earlier model, run or exception still holds it.",
    )


def _fixed(report: Report, facts: Facts) -> Cause | None:
    """What must be there before any work, against the capacity."""
    capacity = facts.capacity_bytes or Numbers(report).total
    if capacity is None:
        return None
    held = sum(facts.components.get(name, 0) for name in FIXED) or facts.weights_bytes
    if max(held, facts.weights_bytes) >= capacity or _leaves_nothing(facts, capacity):
        return likely(
            "model_too_big",
            f"The weights alone are {amount(facts.weights_bytes)}, with "
            f"what is always beside them {amount(held)}, of {amount(capacity)}.",
        )
    states = sum(facts.components.get(name, 0) for name in STATES)
    if states and held + states >= capacity:
        text = worked_out(held, ("+", states, "of gradients and optimizer states"))
        return likely("optimizer_states", f"{text}, of {amount(capacity)}, before any batch.")
    return None


def _roomy(report: Report, facts: Facts) -> Cause | None:
    """A message without numbers, of settings that by themselves leave a tenth of the GPU free."""
    capacity = facts.capacity_bytes
    if Numbers(report).allocated is not None or capacity is None:
        return None
    if facts.peak_device_bytes > MOST * capacity:
        return None
    return guess(
        "other_process",
        f"These settings need {amount(facts.peak_device_bytes)} of {amount(capacity)}: something "
        "else was on the GPU, another process or an earlier model of this one.",
    )


def _leaves_nothing(facts: Facts, capacity: int) -> bool:
    return not facts.training and facts.weights_bytes >= MOST * capacity


def largest_part(facts: Facts) -> Cause | None:
    """The largest of the parts that settings change, where no frame tells more."""
    parts = {name: facts.components[name] for name in CAUSES if facts.components.get(name)}
    if not parts:
        return None
    name = max(parts, key=lambda part: parts[part])
    peak = (
        f"{amount(facts.peak_device_bytes)} at the peak{', in ' * bool(facts.phase)}{facts.phase}"
    )
    return likely(
        CAUSES[name],
        f"Of {peak}, {amount(parts[name])} are {name.replace('_', ' ')}: the largest part that "
        "settings change.",
        _checkpointing(name, facts),
    )


def _checkpointing(name: str, facts: Facts) -> str:
    if name != "activations" or not facts.training:
        return ""
    if facts.gradient_checkpointing:
        return "That is with gradient checkpointing already on."
    return "Gradient checkpointing is off." if facts.gradient_checkpointing is False else ""
