"""The matrix products of a model: parameters that meet every token, and bytes that are read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from willfit.formulas.modules import in_tower
from willfit.formulas.weights import LoadedWeights
from willfit.formulas.weights.loaded import LoadedRow
from willfit.scenario.model import ModelSpec
from willfit.sources.stored import QUANTIZED_MODULE

Part = Literal["layers", "experts", "head", "encoder", "other"]
"""Where a product is: in a layer, in routed experts, after the layers, in the encoder of an
encoder-decoder, or in a tower (vision, audio) that text does not pass."""

TAIL: Final = ".mlp.down_proj"
"""Name of the last product of a dense decoder layer, whose output goes into the residual sum."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """Equal treatment of equal products: one part of the model, quantised or not."""

    part: Part
    quantized: bool
    params: int
    """Parameters of the matrices; of experts, all of them."""
    trainable_params: int
    """Those that full fine-tuning would train (floating point)."""
    num_bytes: int
    """Bytes read to have every one of them once, quantisation states included."""
    modules: int
    """Number of matrices: each is one kernel and one Python call at least."""
    features: int
    """Σ (in + out) of the matrices: what a token moves through them."""
    tail_params: int = 0
    """Parameters of the products whose output nothing but the residual sum reads."""


def products_of(model: ModelSpec, weights: LoadedWeights) -> tuple[Products, ...]:
    """All matrix products of the loaded model, by part.

    Parameters of a checkpoint that is stored packed are its stated number less those that are not
    packed, shared out by bytes.
    """
    sorted_rows: dict[tuple[Part, bool], list[LoadedRow]] = {}
    sizes = {loaded.row.name: loaded.weight_bytes for loaded in weights.rows}
    for loaded in weights.rows:
        if _is_product(loaded):
            key = (_part(loaded, model), _is_quantized(loaded))
            sorted_rows.setdefault(key, []).append(loaded)
    packed = _packed_params(model, weights)
    stored_bytes = sum(row.total_bytes for row in weights.rows if _is_stored_packed(row))
    return tuple(
        _products(part, quantized, rows, sizes, packed / stored_bytes if stored_bytes else 0.0)
        for (part, quantized), rows in sorted_rows.items()
    )


def _products(
    part: Part,
    quantized: bool,
    rows: Iterable[LoadedRow],
    sizes: dict[str, int],
    params_per_byte: float,
) -> Products:
    params = trainable = num_bytes = modules = features = tail = 0
    for loaded in rows:
        shared = sizes.get(loaded.row.tied_to or "", 0) * loaded.row.count
        size = loaded.total_bytes or shared
        num_bytes += size
        packed = _is_stored_packed(loaded)
        elements = loaded.row.num_elements * loaded.row.count
        some = round(size * params_per_byte) if packed else elements
        params += some
        tail += some if loaded.row.owner.endswith(TAIL) else 0
        features += 0 if packed else sum(loaded.row.shape[-2:]) * loaded.row.count
        trainable += elements if loaded.dtype.is_floating and not (packed or quantized) else 0
        if not loaded.state_sizes or loaded.weight_bytes:
            modules += loaded.row.count
    return Products(
        part=part,
        quantized=quantized,
        params=params,
        trainable_params=trainable,
        num_bytes=num_bytes,
        modules=modules,
        tail_params=tail,
        features=features or round(2 * modules * math.sqrt(params / max(modules, 1))),
    )


def _is_stored_packed(loaded: LoadedRow) -> bool:
    return loaded.row.module == QUANTIZED_MODULE


def _is_quantized(loaded: LoadedRow) -> bool:
    return loaded.quantized or _is_stored_packed(loaded)


def _packed_params(model: ModelSpec, weights: LoadedWeights) -> int:
    """Parameters before packing of what the checkpoint stores packed."""
    plain = sum(
        loaded.row.num_elements * loaded.row.count
        for loaded in weights.rows
        if loaded.row.is_parameter and loaded.row.tied_to is None and not _is_stored_packed(loaded)
    )
    return max(model.num_params - plain, 0)


def _is_product(loaded: LoadedRow) -> bool:
    """Whether tokens are multiplied with it: two axes and more, and no look-up table."""
    if _is_stored_packed(loaded):
        return True
    row = loaded.row
    if row.name.endswith("bias") or "Embedding" in row.module:
        return False
    return row.is_parameter and len(row.shape) >= 2


def _part(loaded: LoadedRow, model: ModelSpec) -> Part:
    name = loaded.row.name
    if in_tower(name):
        return "other"
    architecture = model.architecture
    if architecture is not None and architecture.encoder_layers and "encoder." in name:
        return "encoder"
    if "{" not in name:
        return "head"
    routed = "experts." in name or name.endswith(".experts")
    return "experts" if routed and "shared_expert" not in name else "layers"
