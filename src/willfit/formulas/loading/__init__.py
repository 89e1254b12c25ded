"""Loading: its peak, the block that is reserved first, and every allocation in order."""

from __future__ import annotations

from willfit.formulas.loading.events import (
    LoadingMemory,
    loading_events,
    loading_script,
    moving_script,
    simulate_loading,
)
from willfit.formulas.loading.peak import host_loading_bytes, loading_phase, transient_bytes
from willfit.formulas.loading.warmup import (
    WARMUP_MARGIN,
    WARMUP_SINCE,
    counted_bytes,
    warmup_bytes,
)

__all__ = [
    "WARMUP_MARGIN",
    "WARMUP_SINCE",
    "LoadingMemory",
    "counted_bytes",
    "host_loading_bytes",
    "loading_events",
    "loading_phase",
    "loading_script",
    "moving_script",
    "simulate_loading",
    "transient_bytes",
    "warmup_bytes",
]
