"""The block that transformers reserves before it loads anything (`caching_allocator_warmup`)."""

from __future__ import annotations

from typing import Final

from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import TensorKind
from willfit.scenario.stack import Stack
from willfit.units import GIB, MIB, round_up

WARMUP_SINCE: Final = "4.50"
"""transformers release with `caching_allocator_warmup` (used with a device_map)."""
WARMUP_MARGIN: Final = round(1.2 * GIB)
"""The warm-up leaves at least this much of the device's total."""


def warmup_bytes(weights: LoadedWeights, gpu: Gpu | None, stack: Stack) -> int:
    """The block reserved before loading with a device_map, in whole 2 MiB; 0 without one.

    Σ numel·e over parameters and stored buffers, 0.5 byte for 4-bit and 1 for 8-bit weights,
    at most the device's total − 1.2 GiB; it is freed at once and stays reserved.
    """
    if not stack.at_least("transformers", WARMUP_SINCE):
        return 0
    wanted = counted_bytes(weights)
    if gpu is not None:
        wanted = min(wanted, max(gpu.capacity_bytes - WARMUP_MARGIN, 0))
    return round_up(wanted // 2 * 2, 2 * MIB)


def counted_bytes(weights: LoadedWeights) -> int:
    """What the warm-up counts: the stored tensors in the working type, without absmax and scales.

    `get_total_byte_count`: over ``state_dict``, before ``_keep_in_fp32_modules`` are applied.
    """
    return sum(
        loaded.row.count * loaded.counted_bytes(weights.dtype)
        for loaded in weights.rows
        if loaded.row.kind is not TensorKind.NON_PERSISTENT_BUFFER
    )
