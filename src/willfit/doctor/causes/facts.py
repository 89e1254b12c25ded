"""Facts: what an estimate of the user's own scenario says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Facts:
    """An estimate, as far as a cause depends on it."""

    weights_bytes: int
    """Of the model on the GPU that failed."""
    peak_device_bytes: int
    """Estimated for that GPU, context included."""
    components: Mapping[str, int] = field(default_factory=dict)
    """Bytes at the peak by the names of an estimate: ``weights``, ``activations``, ``logits``…"""
    phase: str = ""
    """In which the peak is."""
    training: bool = False
    gradient_checkpointing: bool | None = None
    """None where it does not apply."""
    capacity_bytes: int | None = None
    """Of the GPU; None where it is not known."""
    explained_by: str = ""
    """Cause that a batch or a setting other than the given one would be, where that explains what
    the message shows beyond the estimate."""
    factors: tuple[str, ...] = ()
    """What the asked-for size can be by the model's shapes, such as ``4,096 × 14,336 × 4 B: a
    weight of mlp.down_proj in float32``."""
