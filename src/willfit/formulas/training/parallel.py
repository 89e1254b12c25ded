"""Several GPUs: what each rank keeps of weights, gradients and states, and what it adds.

DeepSpeed 0.19.8 zero/stage_1_and_2.py and stage3.py, accelerate utils/fsdp_utils.py, torch DDP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.units import ceil_div

SHARDED: Final = ("fsdp", "zero1", "zero2", "zero3")


@dataclass(frozen=True, kw_only=True)
class Sharded:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimizer_states: int
    communication: int
    note: str = ""


def shard(
    strategy: str,
    *,
    degree: int,
    weights: int,
    trainable: int,
    gradients: int,
    optimizer_states: int,
    largest_block: int,
    half_precision: bool,
    trains_weights: bool = True,
) -> Sharded:
    """One rank's part under a strategy; ``degree`` ranks together hold at least the whole.

    ddp: a full copy and buckets as large as the gradients. zero1: states sharded, with float32
    masters of half-precision weights and a float32 copy of this rank's gradients in the step.
    zero2: gradients too. zero3: weights too, with two gathered blocks alive. fsdp: the same, what
    trains in float32 throughout where there are masters; what is whole when is in fsdp.py.
    """
    if degree == 1 or strategy in ("device_map", "replicas"):
        return Sharded(
            weights=weights, gradients=gradients, optimizer_states=optimizer_states, communication=0
        )
    if strategy in ("ddp", "dp"):
        return Sharded(
            weights=weights,
            gradients=gradients,
            optimizer_states=optimizer_states,
            communication=gradients if strategy == "ddp" else 0,
            note="gradient buckets" if strategy == "ddp" else "",
        )
    masters = 2 * trainable if half_precision else 0
    states = ceil_div(optimizer_states * (2 if half_precision else 1) + masters, degree)
    step_copy = ceil_div(2 * gradients if half_precision else gradients, degree)
    if strategy == "zero1":
        return Sharded(
            weights=weights,
            gradients=gradients,
            optimizer_states=states,
            communication=step_copy,
            note="float32 copy of this rank's gradients",
        )
    if strategy == "zero2":
        return Sharded(
            weights=weights,
            gradients=ceil_div(gradients, degree),
            optimizer_states=states,
            communication=step_copy,
            note="float32 copy of this rank's gradients",
        )
    if strategy == "fsdp":
        growth = 2 if half_precision else 1
        return Sharded(
            weights=ceil_div(weights * (growth if trains_weights else 1), degree),
            gradients=ceil_div(gradients * growth, degree),
            optimizer_states=ceil_div(optimizer_states * growth, degree),
            communication=0,
            note="gathered weights, and gradients on their way",
        )
    return Sharded(
        weights=ceil_div(weights, degree),
        gradients=ceil_div(gradients, degree),
        optimizer_states=states,
        communication=2 * largest_block,
        note="gathered weights of two blocks",
    )
