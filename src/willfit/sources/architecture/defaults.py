"""What a config leaves out: the defaults of transformers' configuration class for its type.

A config saved by transformers states the fields of its outer part; of a nested text part it keeps
only those that differ from the class's defaults, so a vision–language model needs them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from willfit.sources.architecture.fields import SYNONYMS

_ESSENTIAL: Final = frozenset(
    key
    for name in ("hidden_size", "num_layers", "num_heads", "intermediate_size")
    for key in SYNONYMS[name]
) | {"vocab_size", "num_decoder_layers", "encoder_layers"}
"""Fields without which an outer config is not one: never filled in there."""


@lru_cache(maxsize=1)
def config_defaults() -> Mapping[str, Mapping[str, Any]]:
    """Literal defaults by ``model_type``; the file names the release that they were read from."""
    table: Mapping[str, Mapping[str, Any]] = _read("config_defaults.json")["defaults"]
    return table


@lru_cache(maxsize=1)
def _sdpa_releases() -> Mapping[str, list[list[str]]]:
    table: Mapping[str, list[list[str]]] = _read("sdpa_releases.json")["releases"]
    return table


def _read(file: str) -> Any:
    return json.loads(resources.files("willfit.data").joinpath(file).read_text("utf-8"))


def sdpa_releases(model_type: str, *, today: bool) -> tuple[tuple[str, str], ...]:
    """Releases in which a type takes SDPA, where that changed; none where it always was ``today``.

    A file whose last state is not today's has several classes, of which another was read.
    """
    found = tuple((first, end) for first, end in _sdpa_releases().get(model_type, ()))
    return found if found and (found[-1][1] == "") is today else ()


def with_defaults(config: Mapping[str, Any], *, nested: bool = False) -> Mapping[str, Any]:
    """The config and, for fields that it has under no name, its class's defaults.

    A null stays null: the class then computes the value, or the model goes without.
    """
    known = config_defaults().get(str(config.get("model_type")), {})
    filled = {
        key: value
        for key, value in known.items()
        if key != "text_config"
        and (nested or key not in _ESSENTIAL)
        and not any(name in config for name in _names(key))
    }
    return {**filled, **config} if filled else config


def text_type(model_type: object) -> str | None:
    """Model type of the text part that a composite type has by default: llama for llava."""
    name = config_defaults().get(str(model_type), {}).get("text_config")
    return name if isinstance(name, str) else None


def _names(key: str) -> tuple[str, ...]:
    return next((names for names in SYNONYMS.values() if key in names), (key,))
