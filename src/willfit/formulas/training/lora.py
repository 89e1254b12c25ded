"""LoRA: which modules get an adapter, how many parameters it has, what its inputs cost.

PEFT 0.21.2 tuners/lora: A is (r, in), B is (out, r), both float32 by default
(``autocast_adapter_dtype``); DoRA adds a magnitude of ``out``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.errors import InputError, UnsupportedError
from willfit.formulas.modules import in_tower
from willfit.formulas.quantization import OUTPUT_EMBEDDINGS
from willfit.identity import by_identity
from willfit.scenario.collapse import split_row
from willfit.scenario.model import ModelSpec, TensorRow
from willfit.scenario.workload import Lora

_TARGETS: Final = Path(__file__).resolve().parents[2] / "data" / "peft_targets.json"
_LINEAR: Final = ("Linear", "Conv1D", "QuantizedLinear", "FalconLinear")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Equal adapted modules, one per layer."""

    name: str
    """Name pattern of the weight that is adapted."""
    count: int
    in_features: int
    out_features: int

    @property
    def role(self) -> str:
        """Last part of the module's name: ``q_proj``."""
        return self.name.split(".")[-2]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """All adapters of a model."""

    targets: tuple[Target, ...]
    r: int
    dtype: DType
    dropout: float
    dora: bool
    saved_modules: tuple[TensorRow, ...]
    """Copies of whole modules that are trained (``modules_to_save``)."""

    def shapes(self) -> list[tuple[tuple[int, ...], int]]:
        """(shape, count) of every trainable tensor."""
        shapes: list[tuple[tuple[int, ...], int]] = []
        for target in self.targets:
            shapes.append(((self.r, target.in_features), target.count))
            shapes.append(((target.out_features, self.r), target.count))
            if self.dora:
                shapes.append(((target.out_features,), target.count))
        shapes += [(row.shape, row.count) for row in self.saved_modules]
        return shapes

    @property
    def num_params(self) -> int:
        """Trainable parameters."""
        total = 0
        for shape, count in self.shapes():
            elements = count
            for size in shape:
                elements *= size
            total += elements
        return total

    @cached_property
    def met(self) -> tuple[Target, ...]:
        """Targets that text goes through: not those of a tower beside a language model."""
        found = tuple(target for target in self.targets if not in_tower(target.name))
        return found or self.targets

    def in_features_per_layer(self, num_layers: int) -> float:
        """Σ in_features of adapted modules in one layer, on average."""
        return sum(t.in_features * t.count for t in self.met) / max(num_layers, 1)

    def out_features_per_layer(self, num_layers: int) -> float:
        """Σ out_features of adapted modules in one layer, on average."""
        return sum(t.out_features * t.count for t in self.met) / max(num_layers, 1)

    def modules_per_layer(self, num_layers: int) -> float:
        """Adapted modules in one layer, on average."""
        return sum(t.count for t in self.met) / max(num_layers, 1)


@by_identity(256)
def build_adapter(model: ModelSpec, lora: Lora) -> tuple[Adapter, tuple[str, ...]]:
    """The adapters that PEFT would inject; raises `InputError` where no module matches."""
    names, note = _target_names(model, lora)
    if "all-linear" in names and any(_is_fused_experts(row) for row in model.tensors):
        raise UnsupportedError(
            f"PEFT's all-linear adapts the fused experts of {model.id} too, and every layer keeps "
            "an adapted copy of them: no formula has that; --trace (willfit[trace]) runs it"
        )
    targets = tuple(
        Target(name=part.name, count=part.count, in_features=shape[1], out_features=shape[0])
        for row in _linear_rows(model)
        for part, shape in _matching(row, names, model)
    )
    if not targets:
        known = ", ".join(sorted({row.name.split(".")[-2] for row in _linear_rows(model)})[:12])
        raise InputError(
            f"no linear module of {model.id} is called {', '.join(names)}: it has {known}"
        )
    saved = tuple(
        row
        for row in model.tensors
        if row.is_parameter and any(_named(row.owner, name) for name in lora.modules_to_save)
    )
    adapter = Adapter(
        targets=targets,
        r=lora.r,
        dtype=lora.dtype or FLOAT32,
        dropout=lora.dropout,
        dora=lora.use_dora,
        saved_modules=saved,
    )
    return adapter, note


def _is_fused_experts(row: TensorRow) -> bool:
    """Experts as one parameter, which PEFT wraps by ``target_parameters``."""
    return len(row.shape) == 3 and "expert" in row.name and row.is_parameter


def _target_names(model: ModelSpec, lora: Lora) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if lora.target_modules is not None:
        return lora.target_modules, ()
    model_type = str(model.config.get("model_type"))
    defaults = default_targets(model_type)
    if defaults is None:
        raise InputError(
            f"PEFT has no default target modules for {model_type}: give --lora-target-modules, "
            "for example all-linear"
        )
    return defaults, (f"LoRA on {', '.join(defaults)}, PEFT's default for {model_type}",)


def default_targets(model_type: str) -> tuple[str, ...] | None:
    """PEFT's ``target_modules`` for a model type where none are given; None where it has none."""
    return _default_targets().get(model_type)


@lru_cache(maxsize=1)
def _default_targets() -> dict[str, tuple[str, ...]]:
    content = json.loads(_TARGETS.read_bytes())
    return {name: tuple(targets) for name, targets in content["targets"].items()}


def _linear_rows(model: ModelSpec) -> list[TensorRow]:
    return [
        row
        for row in model.tensors
        if row.module in _LINEAR
        and row.name.rpartition(".")[2] in ("weight", "qweight", "weight_packed")
    ]


def _matching(
    row: TensorRow, names: Sequence[str], model: ModelSpec
) -> list[tuple[TensorRow, tuple[int, int]]]:
    """The part of a row whose modules are targets, with its (out, in)."""
    if len(row.shape) != 2:
        return []
    everything = "all-linear" in names
    if everything and (row.owner in OUTPUT_EMBEDDINGS or row.owner == "score"):
        return []  # PEFT leaves the output layer out of all-linear
    wanted = (lambda _: True) if everything else (lambda name: _is_target(name, names))
    parts = split_row(row, wanted, by_layer=any(re.search(r"\d", name) for name in names))
    return [(part, _features(part, model)) for part, kept in parts if kept]


def _is_target(name: str, names: Sequence[str]) -> bool:
    owner = name.rpartition(".")[0]
    return any(_named(owner, wanted) for wanted in names)


def _named(owner: str, wanted: str) -> bool:
    return owner == wanted or owner.endswith("." + wanted)


def _features(row: TensorRow, model: ModelSpec) -> tuple[int, int]:
    """(out, in) of the module, undoing Conv1D's transposition and 4-bit packing in int32."""
    if model.quantization is not None and model.quantization.method.startswith("bitsandbytes"):
        return _unpacked_features(row, model)
    first, second = row.shape
    last = row.name.rpartition(".")[2]
    if row.module == "Conv1D":
        return second, first
    if last == "qweight" and model.quantization is not None:
        packed = round(32 / (model.quantization.bits or 4))
        if model.quantization.method == "awq":
            return second * packed, first
        return second, first * packed
    return first, second


_FROM_ATTENTION: Final = ("o_proj", "out_proj", "dense", "c_proj", "wo")
_FROM_MLP: Final = ("down_proj", "w2", "fc2", "dense_4h_to_h")


def _unpacked_features(row: TensorRow, model: ModelSpec) -> tuple[int, int]:
    """(out, in) of a weight that bitsandbytes stored as a column of bytes, two weights in each.

    One side is the hidden size: what comes from attention or the MLP's inside goes to it.
    """
    if row.dtype.name != "uint8":
        return row.shape[0], row.shape[1]
    if model.architecture is None:
        raise UnsupportedError(f"the shape of {row.name} is packed and its config not known")
    hidden = model.architecture.hidden_size
    other = 2 * row.num_elements // hidden
    back = row.owner.rpartition(".")[2] in (*_FROM_ATTENTION, *_FROM_MLP)
    return (hidden, other) if back else (other, hidden)


def input_of(role: str) -> str:
    """What an adapted module reads, by its name: attention or MLP, from outside or inside."""
    if role in ("o_proj", "out_proj", "dense", "c_proj"):
        return "attention output"
    if role in ("down_proj", "w2", "fc2", "dense_4h_to_h"):
        return "product"
    if role in ("gate_proj", "up_proj", "gate_up_proj", "fc1", "dense_h_to_4h"):
        return "MLP input"
    return "attention input"
