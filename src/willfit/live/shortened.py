"""A scenario with fewer layers, or with another config: a model that is small enough to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from willfit.errors import InputError
from willfit.scenario import Loading, ModelSpec, Scenario
from willfit.sources.checkpoint import spec_of_config
from willfit.sources.heads import with_auto_class
from willfit.sources.local import ONLY_CONFIG

_COUNTS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
"""Names of the number of layers in configs."""
_BY_LAYER: Final = ("layer_types", "max_window_layers", "mlp_layer_types", "no_rope_layers")
"""Settings that speak of every layer; the library makes them anew."""
MAX_LAYERS: Final = 10_000


def layers_of(model: ModelSpec) -> int:
    """How many layers the config says; 0 where it does not."""
    text = model.config.get("text_config", model.config)
    found = next((text[name] for name in _COUNTS if isinstance(text.get(name), int)), 0)
    return int(found)


def shortened(scenario: Scenario, layers: int) -> Scenario:
    """The scenario with so many layers; raises `InputError` where the model has fewer, or none."""
    there = layers_of(scenario.model)
    if not 1 <= layers <= min(there, MAX_LAYERS):
        raise InputError(
            f"--layers {layers} cannot be: {scenario.model.id} has {there or 'no number of'} layers"
        )
    config = _cut(scenario.model.config, layers)
    name = f"{scenario.model.id} with {layers} of {there} layers"
    return with_config(scenario, config, name)


def with_config(scenario: Scenario, config: Mapping[str, Any], name: str) -> Scenario:
    """The scenario of another config, under a name."""
    return replace(scenario, model=model_of(config, name, scenario.workload.loading))


def model_of(config: Mapping[str, Any], name: str, loading: Loading) -> ModelSpec:
    """The model of a ``config.json``'s content, with the class that the loading asks for."""
    model = spec_of_config(config, name, ONLY_CONFIG)
    return with_auto_class(model, loading.auto_class, loading.num_labels)


def _cut(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    found = {name: value for name, value in config.items() if name not in _BY_LAYER}
    for name in _COUNTS:
        if name in found:
            found[name] = layers
    types = config.get("layer_types")
    if isinstance(types, list):
        found["layer_types"] = types[:layers]
    if isinstance(config.get("text_config"), Mapping):
        found["text_config"] = _cut(config["text_config"], layers)
    return found
