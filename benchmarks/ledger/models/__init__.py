"""Models of published rows that willfit's catalogue does not have.

A file here is a checkpoint's config: ``{"id": …, "source": …, "config": {…}}``, facts with the
address they were read at. A quantised copy needs none: it is its base with a quantisation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from willfit.errors import WillfitError
from willfit.scenario import ModelSpec
from willfit.sources.checkpoint import spec_of
from willfit.sources.resolve import resolve
from willfit.sources.structure import Checkpoint

_FOLDER: Final = Path(__file__).parent


def published_model(name: str) -> ModelSpec:
    """By the catalogue, else by a file of this folder; raises as `resolve` does."""
    try:
        return resolve(name)
    except WillfitError:
        if name not in _files():
            raise
    return from_config(name, _files()[name])


def quantised_copy(name: str, base: str, quantization: Mapping[str, Any]) -> ModelSpec:
    """A checkpoint that was quantised from ``base``, packed as its method packs.

    ``quantization`` is the checkpoint's ``quantization_config``.
    """
    config = dict(published_model(base).config)
    return from_config(name, {**config, "quantization_config": dict(quantization)})


def from_config(name: str, config: Mapping[str, Any]) -> ModelSpec:
    """The model of a config."""
    return spec_of(Checkpoint(id=name, source="local", config=dict(config)))


@lru_cache
def _files() -> dict[str, dict[str, Any]]:
    found = (json.loads(path.read_text()) for path in sorted(_FOLDER.glob("*.json")))
    return {entry["id"]: entry["config"] for entry in found}
