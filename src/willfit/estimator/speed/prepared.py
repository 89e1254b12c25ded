"""What is kept between calls: the anatomy of a loaded model, its adapters, the rates of a card."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from willfit.devices import find_gpu
from willfit.dtypes import DType
from willfit.errors import UnsupportedError
from willfit.estimator.spread import spread, strategy_of
from willfit.formulas.timing.anatomy import Anatomy, anatomy_of
from willfit.formulas.timing.rates import Rates, rates_of
from willfit.formulas.training.lora import Adapter, build_adapter
from willfit.formulas.training.static import trainables
from willfit.formulas.weights import LoadedWeights, load_weights, on_machine
from willfit.scenario import Scenario
from willfit.scenario.machine import Gpu
from willfit.scenario.model import ModelSpec
from willfit.scenario.workload import Lora

STAND_IN: Final = {60: "P100", 70: "V100", 75: "T4", 80: "A100", 86: "A10", 89: "L4", 90: "H100"}
"""The card whose rates are taken for one of that compute capability that nobody knows."""
SURELY_ON_GPU: Final = 0.75
"""Part of the GPUs' budget below which weights are on the GPUs without asking the placement."""
KEPT: Final = 64
"""Models kept; more drop the oldest."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What depends on a model and its loading alone."""

    model: ModelSpec
    """As asked for; kept, so that its identity stays its own."""
    weights: LoadedWeights
    anatomy: Anatomy
    adapters: dict[Lora, tuple[Adapter, float]] = field(default_factory=dict)
    full: dict[tuple[str, ...], tuple[float, float, DType, int]] = field(default_factory=dict)
    off_gpu: dict[tuple[Any, ...], tuple[int, int]] = field(default_factory=dict)

    def adapter(self, lora: Lora) -> tuple[Adapter, float]:
        """The adapters that PEFT would inject, and how many parameters they have."""
        found = self.adapters.get(lora)
        if found is None:
            adapter, _ = build_adapter(self.model, lora)
            found = (adapter, float(adapter.num_params))
            self.adapters[lora] = found
        return found

    def trainable(self, freeze: tuple[str, ...]) -> tuple[float, float, DType, int]:
        """Of full fine-tuning: (parameters, part of the products' trained, type, tensors)."""
        found = self.full.get(freeze)
        if found is None:
            found = _trainable(self, freeze)
            self.full[freeze] = found
        return found


_PREPARED: dict[tuple[Any, ...], Prepared] = {}


def prepare(scenario: Scenario) -> Prepared:
    """The anatomy of the scenario's model as it is loaded there."""
    loading, machine = scenario.workload.loading, scenario.machine
    key = (
        id(scenario.model),
        loading.dtype,
        loading.quantization,
        tuple(scenario.stack.versions.items()),
        min((gpu.sm for gpu in machine.gpus), default=0) if machine is not None else 0,
        scenario.workload.training is None,
    )
    found = _PREPARED.get(key)
    if found is None:
        found = _prepared(scenario)
        if len(_PREPARED) >= KEPT:
            del _PREPARED[next(iter(_PREPARED))]
        _PREPARED[key] = found
    return found


def _prepared(scenario: Scenario) -> Prepared:
    model = on_machine(scenario.model, scenario.workload, scenario.machine)
    if model.architecture is None:
        raise UnsupportedError(
            f"the formulas do not know the shapes of {model.model_class}, so nor its time"
        )
    weights = load_weights(model, scenario.workload.loading, scenario.stack)
    anatomy = anatomy_of(model, model.architecture, weights, scenario.stack)
    return Prepared(model=scenario.model, weights=weights, anatomy=anatomy)


def _trainable(prepared: Prepared, freeze: tuple[str, ...]) -> tuple[float, float, DType, int]:
    frozen = in_products = 0
    for loaded in prepared.weights.rows if freeze else ():
        owner = loaded.row.owner
        if loaded.weight_bytes and any(owner == n or owner.endswith("." + n) for n in freeze):
            elements = loaded.row.num_elements * loaded.row.count
            frozen += elements
            in_products += 0 if "Embedding" in loaded.row.module else elements
    tensors = trainables(prepared.weights, None)
    params = sum(tensor.num_elements * tensor.count for tensor in tensors) - frozen
    products = [p for part in prepared.anatomy.parts.values() for p in part]
    whole = sum(p.params for p in products)
    trained = sum(p.trainable_params for p in products) - in_products
    share = max(trained, 0) / whole if whole else 1.0
    return float(params), share, prepared.weights.dtype, sum(t.count for t in tensors)


def weights_off_gpu(scenario: Scenario, prepared: Prepared) -> tuple[int, int]:
    """(host, disk) bytes of weights that placement leaves off the GPUs, copied in every pass."""
    machine, loading = scenario.machine, scenario.workload.loading
    if machine is None or strategy_of(scenario) != "device_map":
        return 0, 0
    budget = sum(machine.budget_bytes(index) for index in range(len(machine.gpus)))
    if loading.max_memory is None and prepared.anatomy.weight_bytes < SURELY_ON_GPU * budget:
        return 0, 0
    caps = tuple(sorted((str(place), cap) for place, cap in (loading.max_memory or {}).items()))
    key = (caps, tuple(gpu.name for gpu in machine.gpus), budget, machine.ram_bytes)
    found = prepared.off_gpu.get(key)
    if found is None:
        split = spread(scenario, prepared.weights)
        found = (split.host_weight_bytes, split.disk_weight_bytes)
        prepared.off_gpu[key] = found
    return found


_RATES: dict[int, tuple[Gpu | None, Rates]] = {}


def rates(gpu: Gpu | None) -> Rates:
    """Rates by the identity of the card, which is kept with them."""
    found = _RATES.get(id(gpu))
    if found is None:
        sm = gpu.sm if gpu is not None and gpu.vendor == "nvidia" else 80
        found = (gpu, rates_of(gpu, _stand_in(sm)))
        if len(_RATES) >= KEPT:
            _RATES.clear()
        _RATES[id(gpu)] = found
    return found[1]


@lru_cache(maxsize=64)
def _stand_in(sm: int) -> Gpu:
    nearest = min(STAND_IN, key=lambda known: (abs(known - sm), known))
    return find_gpu(STAND_IN[nearest])
