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
    gradients: int,
    optimizer_states: int,
    masters: int = 0,
) -> Sharded:
    """One rank's part under a strategy; ``degree`` ranks together hold at least the whole.

    ddp: a full copy and buckets as large as the gradients. zero1, zero2: states and ``masters``
    shared out, and gradients once they are reduced. zero3 and fsdp: weights too. What is gathered
    and on its way, and when, is in fsdp.py and zero.py.
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
    note = "gathered weights, and gradients on their way"
    if strategy in ("zero1", "zero2"):
        note = "two buckets of 500 million gradients, and a copy of a full one"
    return Sharded(
        weights=weights if strategy in ("zero1", "zero2") else ceil_div(weights, degree),
        gradients=ceil_div(gradients, degree),
        optimizer_states=ceil_div(optimizer_states + masters, degree),
        communication=0,
        note=note,
    )
