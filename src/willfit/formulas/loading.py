"""Loading: the block that transformers reserves first, and the transient of quantising.

transformers 5.23 modeling_utils.py `caching_allocator_warmup`, core_model_loading.py,
integrations/bitsandbytes.py; bitsandbytes 0.50.2 nn/modules.py.
"""

from __future__ import annotations

from typing import Final

from willfit.formulas.phase import ComponentName, Phase
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack
from willfit.units import GIB, MIB, round_up

WARMUP_SINCE: Final = "4.50"
"""transformers release with `caching_allocator_warmup` (used with a device_map)."""
WARMUP_MARGIN: Final = round(1.2 * GIB)
"""The warm-up leaves at least this much of the device's total."""


def loading_phase(weights: LoadedWeights, *, device_map: bool) -> Phase:
    """Peak while loading: all weights, and what quantising the largest one needs.

    4 bit: the weight in its loading type is on the GPU while it is packed, NK·e. int8: that and a
    float16 copy, NK·(e + 2). Without quantisation nothing comes on top: casts happen on the host.
    """
    parts: dict[ComponentName, int] = {
        "weights": weights.allocated_bytes - weights.state_allocated_bytes,
        "quantization_state": weights.state_allocated_bytes,
    }
    largest = weights.largest_quantized
    if largest is not None and weights.quantization is not None:
        copies = weights.dtype.num_bytes(largest.num_elements)
        if weights.quantization.scheme == "int8":
            copies += 2 * largest.num_elements
        parts["temporaries"] = copies
    notes: dict[ComponentName, str] = {"temporaries": "the largest weight while it is quantised"}
    return Phase(
        name="load",
        components=parts,
        notes=notes,
        host_bytes=0 if device_map else weights.weight_bytes,
    )


def warmup_bytes(weights: LoadedWeights, gpu: Gpu | None, stack: Stack) -> int:
    """The block reserved before loading with a device_map, in whole 2 MiB; 0 without one.

    Σ numel·e over parameters and stored buffers, 0.5 byte for 4-bit and 1 for 8-bit weights,
    at most the device's total − 1.2 GiB; it is freed at once and stays reserved.
    """
    if not stack.at_least("transformers", WARMUP_SINCE):
        return 0
    wanted = weights.weight_bytes
    if gpu is not None:
        wanted = min(wanted, max(gpu.capacity_bytes - WARMUP_MARGIN, 0))
    return round_up(wanted, 2 * MIB)
