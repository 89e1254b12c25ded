"""What every formula hands on: the bytes that live together at the peak of one phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from willfit.scenario.model import Architecture, LayerGroup, Unknown

ComponentName = Literal[
    "weights", "quantization_state", "adapters", "kv_cache", "activations", "logits", "gradients",
    "optimizer_states", "temporaries", "workspaces", "communication", "fragmentation",
    "cuda_context", "other_processes",
]  # fmt: skip
PhaseName = Literal["load", "prefill", "decode", "forward", "backward", "clip", "step"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The part of a model that one GPU computes: all of it, or its share of a split."""

    layers: tuple[LayerGroup, ...]
    encoder_layers: tuple[LayerGroup, ...] = ()
    embeddings: bool = True
    """Whether the input embedding is on this GPU."""
    head: bool = True
    """Whether the output head, and so the logits and the loss, are on this GPU."""
    fetched_bytes: int = 0
    """Largest weight of a layer that waits off the GPU and is copied here for its product."""
    fetched_head_bytes: int = 0
    """The same of the output head."""

    @classmethod
    def whole(cls, architecture: Architecture) -> Stage:
        """The stage of a GPU that computes the whole model."""
        return cls(layers=architecture.layers, encoder_layers=architecture.encoder_layers)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Allocated bytes by component at the moment of this phase's peak; they add up to it."""

    name: PhaseName
    components: Mapping[ComponentName, int]
    notes: Mapping[ComponentName, str] = field(default_factory=dict)
    """A few words on how a component came about: ``math kernel: S×S scores in fp32``."""
    host_bytes: int = 0
    """Host RAM that the phase needs besides the process itself (offloads, paged states)."""
    pinned_bytes: int = 0
    """The part of it that is page-locked."""
    cached_bytes: int = 0
    """Reserved and free in the pools of streams that gather and reduce: of no use to others."""

    @property
    def allocated_bytes(self) -> int:
        """Sum of the components."""
        return sum(self.components.values())


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The phases of a workload on one GPU, and what was assumed to compute them."""

    phases: tuple[Phase, ...]
    assumptions: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    """Parts that could not be computed: any of them makes the total untrustworthy."""
    unknowns: tuple[Unknown, ...] = ()
    """Parts that could be bounded: they make the range."""
    num_trainable_params: int = 0
