"""A LoRA adapter that is run, not trained: its weights, and what every adapted product adds.

PEFT 0.21.2 tuners/lora/layer.py and bnb.py: the input is cast to the adapter's type (float32 by
default, ``autocast_adapter_dtype``), and B's output and its scaled copy are beside the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from willfit.allocator.rounding import round_block
from willfit.dtypes import DType
from willfit.errors import UnsupportedError
from willfit.formulas.phase import Stage
from willfit.formulas.training.lora import Adapter, build_adapter, input_of
from willfit.scenario.model import Architecture, ModelSpec
from willfit.scenario.workload import Inference
from willfit.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class AdapterWork:
    """What an adapter adds to an inference on one GPU."""

    weight_bytes: int = 0
    per_token: Mapping[str, int] = field(default_factory=dict)
    """Temporary bytes a token at the widest adapted product, by what its input is."""
    assumptions: tuple[str, ...] = ()


def adapter_work(
    model: ModelSpec, architecture: Architecture, inference: Inference, stage: Stage, dtype: DType
) -> AdapterWork:
    """Nothing without an adapter or once it is merged; raises `UnsupportedError` on DoRA."""
    if inference.lora is None:
        return AdapterWork()
    adapter, notes = build_adapter(model, inference.lora)
    if inference.merge_adapter:
        return AdapterWork(assumptions=(_merging(adapter),))
    if adapter.dora:
        raise UnsupportedError(
            "DoRA makes its weights' norm in every call, which has no formula: merge the adapter "
            "(--merge-adapter), or --trace (willfit[trace]) runs it"
        )
    total = sum(
        count * round_block(adapter.dtype.num_bytes(_elements(shape)))
        for shape, count in adapter.shapes()
    )
    layers = sum(group.count for group in (*stage.layers, *stage.encoder_layers))
    return AdapterWork(
        weight_bytes=total * layers // max(architecture.all_layers, 1),
        per_token=_per_token(adapter, dtype),
        assumptions=(*notes, f"adapter in {adapter.dtype.name}, not merged"),
    )


def _per_token(adapter: Adapter, dtype: DType) -> dict[str, int]:
    """Input cast to the adapter's type, B's output and its scaled copy: e_a·(n_in + 2·n_out)."""
    e, found = adapter.dtype.block_bytes, dict[str, int]()
    for target in adapter.met:
        cast = target.in_features if adapter.dtype is not dtype else 0
        kind = input_of(target.role)
        found[kind] = max(found.get(kind, 0), e * (cast + 2 * target.out_features))
    return found


def _merging(adapter: Adapter) -> str:
    """The product B·A of one module at a time, in the adapter's type, with a scaled copy."""
    largest = max(target.in_features * target.out_features for target in adapter.targets)
    amount = format_bytes(2 * adapter.dtype.num_bytes(largest))
    return f"adapter merged into the weights, which takes {amount} for a while after loading"


def _elements(shape: tuple[int, ...]) -> int:
    elements = 1
    for size in shape:
        elements *= size
    return elements
