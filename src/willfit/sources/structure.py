"""What a config alone says of a model: its table by shape fields, or the real class's by torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from willfit.errors import InputError, UnsupportedError, WillfitError
from willfit.scenario.collapse import NamedTensor
from willfit.scenario.model import Architecture, TensorRow, Unknown
from willfit.sources.configs import library_of


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was found of a model, before it becomes a spec."""

    id: str
    source: str
    """``hub`` or ``local``."""
    config: Mapping[str, Any]
    """Empty where there is none beside the weights."""
    tensors: tuple[NamedTensor, ...] = ()
    """Tensors of the file headers; empty where only the config is known."""
    why_no_headers: str = ""
    """Why `tensors` is empty, for the reader."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a config says of the model's modules, in the words of `tables.Table`."""

    model_class: str
    rows: tuple[TensorRow, ...]
    no_split: tuple[str, ...] = ()
    composite: tuple[str, ...] = ()
    keep_in_fp32: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    unknowns: tuple[Unknown, ...] = ()


def structure_of(found: Checkpoint) -> tuple[Structure | None, str]:
    """The table of the config, or the reason why there is none."""
    config = found.config
    if not config:
        return None, "there is no config.json beside the weights"
    if library_of(config) != "transformers":
        return None, f"{library_of(config)} models are known by their tensors alone"
    from willfit.sources.tables import tensor_table

    try:
        table = tensor_table(config)
    except (UnsupportedError, InputError) as error:
        if isinstance(error, InputError) and not found.tensors:
            raise InputError(f"{found.id}: {error}") from error
        return _traced(found, error) if not found.tensors else (None, str(error))
    return Structure(
        model_class=table.model_class,
        rows=tuple(table.rows),
        no_split=tuple(table.no_split),
        composite=tuple(table.composite),
        keep_in_fp32=tuple(table.keep_in_fp32),
        assumptions=tuple(table.assumptions),
        unknowns=tuple(table.unknowns),
    ), ""


def _traced(found: Checkpoint, unknown: WillfitError) -> tuple[Structure | None, str]:
    """The table of the real class on the meta device, where torch is installed."""
    from importlib.util import find_spec

    if found.config.get("auto_map") and "model_type" in found.config:
        unknown = UnsupportedError(
            f"{unknown} (its code lies in its own repository and is not run here)"
        )
    if find_spec("torch") is None or find_spec("transformers") is None:
        return None, f"{found.id}: {unknown}"
    from willfit.meta.transformers_build import build_transformers
    from willfit.sources.tables import ON_TRACE

    try:
        built = build_transformers(found.config)
    except (InputError, UnsupportedError) as error:
        said = str(unknown).replace(f": {ON_TRACE}", "")  # it is installed, and was asked
        return None, f"{found.id}: {said}; and {error}"
    return Structure(
        model_class=built.model_class,
        rows=built.rows,
        no_split=built.no_split,
        composite=built.composite,
        keep_in_fp32=built.keep_in_fp32,
    ), ""


def known_architecture(found: Checkpoint) -> tuple[Architecture | None, list[str]]:
    """Shape facts for the formulas, or why there are none."""
    if library_of(found.config) != "transformers" or not found.config:
        return None, []
    from willfit.sources.architecture import architecture_of

    try:
        return architecture_of(found.config), []
    except InputError as error:
        if not found.tensors:
            raise InputError(f"{found.id}: {error}") from error
        return None, [f"weights only, the layers are not known: {error}"]
