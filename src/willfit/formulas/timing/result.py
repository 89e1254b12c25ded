"""Timing: how long a scenario takes, as ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from willfit.formulas.timing.span import Span
from willfit.formulas.timing.work import Cost

Limit = Literal["compute", "bandwidth", "launch", "pcie", "disk", "link"]
"""What most of the time goes to: products, memory traffic, the host's Python and launches, copies
over PCIe, reading from disk, or what GPUs send each other."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one scenario; None where the workload has no such thing."""

    prefill_seconds: Span | None = None
    """The pass over the prompts of a batch (a whole forward pass for an encoder)."""
    decode_seconds_per_token: Span | None = None
    """One decoding step: one token more for every sequence of the batch, at the mean context."""
    batch_seconds: Span | None = None
    """A batch from prompt to last token; None in training."""
    step_seconds: Span | None = None
    """One optimizer step, accumulation and all GPUs included."""
    tokens_per_second: Span | None = None
    """New tokens a second of all sequences and replicas, or tokens of data trained on a second."""
    tokens_per_second_per_sequence: Span | None = None
    """New tokens a second that one reader sees; None in training."""
    samples_per_second: Span | None = None
    """Prompts answered, or samples trained on, of all GPUs together."""
    samples_per_step: float = 0.0
    """Samples of an optimizer step, or of a batch of all replicas."""
    padding_waste: float = 0.0
    """Part of the computed tokens of training that is padding."""
    flops: float = 0.0
    """FLOPs of a step, or of a batch, on all GPUs."""
    limited_by: Limit = "compute"
    parts: Mapping[str, float] = field(default_factory=dict)
    """Nominal seconds by phase of a step or batch: forward, backward, update, communication; or
    prefill, decode."""
    assumptions: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()


def limited_by(spent: Cost) -> Limit:
    """What most of these seconds go to; the host's time counts where kernels wait for it."""
    waiting = spent.launch > spent.compute + spent.bandwidth
    parts: dict[Limit, float] = {
        "compute": 0.0 if waiting else spent.compute,
        "bandwidth": 0.0 if waiting else spent.bandwidth,
        "launch": spent.launch if waiting else 0.0,
        "pcie": spent.pcie,
        "disk": spent.disk,
        "link": spent.link,
    }
    return max(parts, key=lambda name: parts[name])
