"""Estimate: what a scenario takes, by component, phase and GPU; the result of every level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from willfit.scenario.model import Unknown
from willfit.scenario.scenario import Scenario

Level = Literal["formula", "trace", "measured"]
Verdict = Literal["fits", "tight", "does_not_fit"]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a peak."""

    name: str
    """A name of the contract: ``weights``, ``kv_cache``, ``cuda_context``…"""
    num_bytes: int
    note: str = ""
    """How it came about, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Alive:
    """Storages alike, alive at a peak: of the same operator of the same module in each layer."""

    module: str
    """Path with ``*`` for the layer; "" outside of the model."""
    op: str
    phase: str
    """Phase that allocated them."""
    num_bytes: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Where a traced run would run out of memory."""

    phase: str
    module: str
    """Path of the module at work; "" outside of the model."""
    op: str
    tried_bytes: int
    """What was asked of the device."""
    message: str
    """What torch would say."""
    gpu_index: int = 0


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a GPU held at one moment of a traced run."""

    phase: str
    components: Mapping[str, int]
    """Allocated bytes by component."""
    reserved_bytes: int


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A traced run in so many moments, each the fullest of its stretch."""

    moments: tuple[Moment, ...]


@dataclass(frozen=True, kw_only=True)
class PhaseEstimate:
    """Peak of one phase on one GPU."""

    name: str
    allocated_bytes: int
    """What live tensors take after the allocator's rounding."""
    reserved_bytes: int
    """What the caching allocator has taken from the device by then."""
    device_bytes: int
    """Reserved plus CUDA context: what ``nvidia-smi`` shows for the process."""
    components: tuple[Component, ...]
    """Add up to device_bytes."""


@dataclass(frozen=True, kw_only=True)
class GpuEstimate:
    """One GPU at its own peak."""

    index: int
    name: str
    phases: tuple[PhaseEstimate, ...]
    capacity_bytes: int | None
    """None where no GPU was named."""
    budget_bytes: int | None
    """Capacity − reserve − memory in use."""
    low_device_bytes: int
    """The peak if every unknown takes its smallest effect."""
    high_device_bytes: int
    """The peak if every unknown takes its largest effect."""
    layers: str = ""
    """Which part of the model is here, where it is split."""

    @property
    def peak(self) -> PhaseEstimate:
        """The phase that takes most of the device; of those that do, the one with most allocated.

        Reserved memory stays, so that the phases after a peak show it too.
        """
        return max(self.phases, key=lambda phase: (phase.device_bytes, phase.allocated_bytes))

    @property
    def headroom_bytes(self) -> int | None:
        """Budget − peak; negative where it does not fit."""
        return None if self.budget_bytes is None else self.budget_bytes - self.peak.device_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the nominal peak is within the budget."""
        return None if self.headroom_bytes is None else self.headroom_bytes >= 0

    @property
    def verdict(self) -> Verdict | None:
        """``fits`` (even the high end), ``tight`` (budget inside the range), ``does_not_fit``."""
        if self.budget_bytes is None:
            return None
        if self.high_device_bytes <= self.budget_bytes:
            return "fits"
        return "tight" if self.low_device_bytes <= self.budget_bytes else "does_not_fit"


@dataclass(frozen=True, kw_only=True)
class HostEstimate:
    """What the job takes of the host."""

    ram_bytes: int
    """Host RAM for offloaded weights, caches and paged states, beyond the interpreter itself."""
    pinned_bytes: int
    """The part of it that is page-locked."""
    disk_bytes: int
    """The checkpoint as stored, plus weights offloaded to disk."""
    fits: bool | None = None
    """None where neither RAM nor disk was given."""


@dataclass(frozen=True, kw_only=True)
class DtypeRow:
    """One row of the table that accelerate's users know."""

    dtype: str
    largest_layer_bytes: int
    total_bytes: int
    training_adam_bytes: int | None
    """Weights, gradients and both Adam states in this dtype; None where it cannot be trained."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest settings that still fit, everything else unchanged; None where not searched."""

    batch_size: int | None = None
    context_len: int | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a scenario takes and whether it fits."""

    level: Level
    scenario: Scenario
    num_params: int
    num_trainable_params: int
    gpus: tuple[GpuEstimate, ...]
    """One per GPU; one without capacity where no GPU was named."""
    host: HostEstimate
    kv_cache_bytes: int | None
    """The cache once the whole context is in it, whatever the peak phase."""
    largest_layer_bytes: int
    largest_layer: str
    """Path of the largest layer."""
    dtypes: tuple[DtypeRow, ...] = ()
    limits: Limits = field(default_factory=Limits)
    assumptions: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    unknowns: tuple[Unknown, ...] = ()
    ignored_settings: tuple[str, ...] = ()
    refused: str | None = None
    """Why the library would refuse to load it this way, whatever the numbers; None if it would."""
    failure: Failure | None = None
    """Where the first GPU that runs out would, in a traced run that does not fit."""
    largest_alive: tuple[Alive, ...] = ()
    """What fills the fullest GPU at its peak, largest first; known to a trace alone."""
    off_gpu_bytes: int = 0
    """Weights left in host memory or on disk, copied to a GPU for every pass."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Further facts for the reader by topic: ``attention``, ``notebook``."""

    @property
    def binding(self) -> GpuEstimate:
        """The GPU with the least headroom (the largest peak where no GPU was named)."""
        return min(
            self.gpus,
            key=lambda gpu: (
                -gpu.peak.device_bytes if gpu.headroom_bytes is None else gpu.headroom_bytes
            ),
        )

    @property
    def fits(self) -> bool | None:
        """Whether every GPU, and the host where it was given, holds the nominal amounts."""
        if self.refused is not None:
            return False
        if any(gpu.fits is None for gpu in self.gpus):
            return None
        return all(gpu.fits for gpu in self.gpus) and self.host.fits is not False

    @property
    def verdict(self) -> Verdict | None:
        """The worst verdict of all GPUs; ``does_not_fit`` where refused or the host is short."""
        if self.refused is not None or self.host.fits is False:
            return "does_not_fit"
        verdicts = {gpu.verdict for gpu in self.gpus}
        order: tuple[Verdict, ...] = ("does_not_fit", "tight", "fits")
        return next((verdict for verdict in order if verdict in verdicts), None)
