"""The JSON contract ``willfit.estimate/1``: every byte count an integer, every key stable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from willfit._version import __version__
from willfit.dtypes import DType
from willfit.results import Component, Estimate, GpuEstimate, PhaseEstimate
from willfit.scenario import Scenario
from willfit.scenario.model import ModelSpec

SCHEMA: Final = "willfit.estimate/1"


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """The contract's object for an estimate; additions only, never a renamed key."""
    binding = estimate.binding
    model = estimate.scenario.model
    return {
        "schema": SCHEMA,
        "level": estimate.level,
        "scenario": scenario_json(estimate),
        "model": {
            "id": model.id,
            "library": model.library,
            "source": model.source,
            "standing": model.standing,
            "num_params": estimate.num_params,
            "num_trainable_params": estimate.num_trainable_params,
        },
        "components": [_component(component) for component in binding.peak.components],
        "peak": {"gpu_index": binding.index, "phase": binding.peak.name, **_amounts(binding.peak)},
        "range": {
            "low_device_bytes": binding.low_device_bytes,
            "high_device_bytes": binding.high_device_bytes,
            "unknowns": [plain(unknown) for unknown in estimate.unknowns],
        },
        "phases": [{"name": phase.name, **_amounts(phase)} for phase in binding.phases],
        "per_gpu": [_gpu(gpu) for gpu in estimate.gpus if gpu.capacity_bytes is not None],
        "host": plain(estimate.host),
        "kv_cache_bytes": estimate.kv_cache_bytes,
        "largest_layer_bytes": estimate.largest_layer_bytes,
        "largest_layer": estimate.largest_layer,
        "dtypes": [plain(row) for row in estimate.dtypes],
        "limits": plain(estimate.limits),
        "fits": estimate.fits,
        "verdict": estimate.verdict,
        "headroom_bytes": binding.headroom_bytes,
        "refused": estimate.refused,
        "off_gpu_bytes": estimate.off_gpu_bytes,
        "failure": None if estimate.failure is None else plain(estimate.failure),
        "largest_alive": [plain(alive) for alive in estimate.largest_alive],
        "assumptions": list(estimate.assumptions),
        "unsupported": list(estimate.unsupported),
        "ignored_settings": list(estimate.ignored_settings),
        "notes": dict(estimate.notes),
        "willfit": __version__,
    }


def scenario_json(estimate: Estimate) -> dict[str, Any]:
    """The scenario of an estimate as settings."""
    return settings_json(estimate.scenario)


def settings_json(scenario: Scenario) -> dict[str, Any]:
    """The scenario as settings; the tensor table stays out (it is the source's, not the user's)."""
    return {
        "model": _model(scenario.model),
        "workload": plain(scenario.workload),
        "machine": plain(scenario.machine),
        "stack": plain(scenario.stack),
    }


def plain(value: Any) -> Any:
    """A value as JSON types: dataclasses and named tuples by field, dtypes and enums by name."""
    if isinstance(value, DType):
        return value.name
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _model(model: ModelSpec) -> dict[str, Any]:
    return {
        "id": model.id,
        "source": model.source,
        "library": model.library,
        "model_class": model.model_class,
        "stored_dtype": model.stored_dtype.name,
        "quantization": plain(model.quantization),
    }


def _amounts(phase: PhaseEstimate) -> dict[str, int]:
    return {
        "allocated_bytes": phase.allocated_bytes,
        "reserved_bytes": phase.reserved_bytes,
        "device_bytes": phase.device_bytes,
    }


def _component(component: Component) -> dict[str, Any]:
    return {"name": component.name, "bytes": component.num_bytes, "note": component.note}


def _gpu(gpu: GpuEstimate) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "phase": gpu.peak.name,
        **_amounts(gpu.peak),
        "capacity_bytes": gpu.capacity_bytes,
        "budget_bytes": gpu.budget_bytes,
        "fits": gpu.fits,
        "layers": gpu.layers,
        "components": [_component(component) for component in gpu.peak.components],
    }
