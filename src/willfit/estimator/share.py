"""Share and Spread: what each GPU of a scenario holds and computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from willfit.formulas.phase import Stage
from willfit.formulas.placement import Device
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu


@dataclass(frozen=True, kw_only=True)
class Share:
    """One GPU's part."""

    index: int
    gpu: Gpu | None
    weights: LoadedWeights
    stage: Stage | None
    """None is the whole model."""
    layers: str = ""
    """In words, where the model is split."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """All shares, and why the library would refuse them if it would."""

    shares: tuple[Share, ...]
    device_map: Mapping[str, Device] | None = None
    """Where placement puts every module, GPUs by the index of their share; None is no placement."""
    host_weight_bytes: int = 0
    """Weights that placement leaves in host memory."""
    disk_weight_bytes: int = 0
    """Weights that placement leaves on disk."""
    refused: str | None = None
    assumptions: tuple[str, ...] = ()
