"""What loading holds at its peak: the weights, and what quantising or joining one needs.

transformers 5.23 core_model_loading.py, integrations/bitsandbytes.py; bitsandbytes 0.50.2
nn/modules.py, functional.py.
"""

from __future__ import annotations

import re
from typing import Final

from willfit.dtypes import FLOAT32
from willfit.formulas.phase import ComponentName, Phase
from willfit.formulas.quantization import BLOCK
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario.model import pattern_count
from willfit.units import ceil_div

_LAYERS: Final = re.compile(r"\{([^{}]*)\}")
_Key = list[tuple[int, int, str]]

LOADING_THREADS: Final = 4
"""Threads that read tensors (core_model_loading.py `GLOBAL_WORKERS`); one while quantising."""


def loading_phase(weights: LoadedWeights, *, device_map: bool) -> Phase:
    """Peak while loading: all weights, and what quantising or joining one needs above them.

    ``temporaries`` is max over tensors of (what it needs − what is read after it), if positive.
    Without a device_map the whole model is in host memory first.
    """
    parts: dict[ComponentName, int] = {
        "weights": weights.allocated_bytes - weights.state_allocated_bytes,
        "quantization_state": weights.state_allocated_bytes,
    }
    notes: dict[ComponentName, str] = {}
    extra, row = _most_demanding(weights) if device_map else (0, None)
    if row is not None:
        parts["temporaries"] = extra
        notes["temporaries"] = (
            "one layer's experts while they are joined"
            if row.merged
            else "a weight while it is quantised"
        )
    return Phase(
        name="load",
        components=parts,
        notes=notes,
        host_bytes=host_loading_bytes(weights) if device_map else weights.weight_bytes,
    )


def _most_demanding(weights: LoadedWeights) -> tuple[int, LoadedRow | None]:
    """The most that one tensor's loading holds above the finished model, and its row."""
    ends = [
        (loaded, natural_key(_end(loaded.row.name, 0)), natural_key(_end(loaded.row.name, -1)))
        for loaded in weights.rows
    ]
    found: tuple[int, LoadedRow | None] = (0, None)
    for loaded, _, last in ends:
        extra = transient_bytes(loaded, weights)
        if extra > found[0]:
            extra -= sum(_bytes_after(other, first, end, last) for other, first, end in ends)
            found = max(found, (extra, loaded), key=lambda pair: pair[0])
    return found


def _bytes_after(loaded: LoadedRow, first: _Key, last: _Key, position: _Key) -> int:
    """Bytes of a row that are read after a position: all, those of its last layer, or none."""
    if last <= position:
        return 0
    found = _LAYERS.search(loaded.row.name)
    layers = pattern_count(found[0]) if found and first <= position else 1
    return loaded.allocated_bytes // layers


def natural_key(name: str) -> _Key:
    """Order in which tensors are read: numbers by value, before words (`dot_natural_key`)."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in name.split(".")]


def _end(pattern: str, which: int) -> str:
    """The first (0) or last (-1) name of a pattern."""
    return _LAYERS.sub(lambda found: re.split("[-,]", found[1])[which], pattern)


def transient_bytes(loaded: LoadedRow, weights: LoadedWeights) -> int:
    """Device bytes that loading one tensor needs besides what stays of it.

    4 bit: the N×K weight in its loading type, N·K·e, again where it is transposed (Conv1D), and
    with double quantisation two float32 absmax, 2·4·⌈NK/64⌉. int8: N·K·e and a float16 copy, 2·N·K.
    Experts joined from one tensor each: a copy of the joined tensor. A plain weight: none.
    """
    if loaded.merged:
        return loaded.weight_bytes
    if weights.quantization is None or not loaded.quantized:
        return 0
    num_elements = loaded.row.num_elements
    arrived = weights.dtype.num_bytes(num_elements)
    if weights.quantization.scheme == "int8":
        return arrived + 2 * num_elements
    transposed = arrived if loaded.row.module == "Conv1D" else 0
    absmax = FLOAT32.num_bytes(ceil_div(num_elements, BLOCK))
    return arrived + transposed + (2 * absmax if weights.quantization.double_quant else 0)


def host_loading_bytes(weights: LoadedWeights) -> int:
    """Host memory while tensors go straight to a device: those being read, in the loading type.

    Files are mapped, so only the tensors under way count: four, or one while quantising, which
    in int8 goes back to the host and becomes float16 there.
    """
    sizes = (weights.dtype.num_bytes(loaded.row.num_elements) for loaded in weights.rows)
    largest = max(sizes, default=0)
    if weights.quantization is None:
        return min(LOADING_THREADS * largest, weights.weight_bytes)
    quantized = weights.largest_quantized
    back = quantized.num_elements if quantized and weights.quantization.scheme == "int8" else 0
    return max(largest, back * (weights.dtype.block_bytes + 2))
