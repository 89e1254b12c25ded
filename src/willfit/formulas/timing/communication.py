"""What GPUs send each other in a training step."""

from __future__ import annotations

from willfit.formulas.timing.anatomy import Anatomy
from willfit.scenario.workload import Strategy


def sent_bytes(
    strategy: Strategy, gpus: int, *, gradient_bytes: float, weight_bytes: float, micro_batches: int
) -> float:
    """Bytes that one GPU sends in an optimizer step, by ring collectives.

    ddp, zero1, zero2: gradients reduced and results gathered, 2·(G − 1)/G of them, once a step
    (no_sync while accumulating). fsdp, zero3: weights gathered in forward and again in backward,
    gradients scattered, in every micro-batch. dp: the first GPU sends its weights to every other
    and receives their gradients, in every micro-batch, one after the other.
    """
    if gpus < 2:
        return 0.0
    ring = (gpus - 1) / gpus
    if strategy in ("fsdp", "zero3"):
        return micro_batches * ring * (2 * weight_bytes + gradient_bytes)
    if strategy == "dp":
        return micro_batches * (gpus - 1) * (weight_bytes + gradient_bytes)
    if strategy in ("ddp", "zero1", "zero2"):
        return 2 * ring * gradient_bytes
    return 0.0


def tensor_parallel_bytes(anatomy: Anatomy, tokens: float, degree: int) -> float:
    """Bytes that one GPU sends in a pass: two sums of the stream a layer, 2·(G − 1)/G of it."""
    stream = tokens * anatomy.architecture.hidden_size * anatomy.dtype.block_bytes
    return 2 * anatomy.architecture.all_layers * 2 * (degree - 1) / degree * stream
