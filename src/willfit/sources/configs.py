"""Configs as data: is it a model's, whose library's, in which type, of which class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from willfit.dtypes import DTYPES, DType
from willfit.errors import BrokenFileError
from willfit.sources.limits import MAX_DIMENSION

_MODEL_KEYS: Final = frozenset(
    {"model_type", "architectures", "architecture", "_class_name", "hidden_size", "d_model"}
)
_COUNT: Final = re.compile(r"layers?$|_blocks?$|experts$|^depths?$")
"""Fields that count modules: each one of them is built, so absurd ones cost time."""
MAX_COUNT: Final = 10_000


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse what is JSON but no model config, and counts that no model has."""
    if not _MODEL_KEYS & config.keys():
        held = ", ".join(sorted(config)[:5])[:120] or "nothing"
        raise BrokenFileError(
            f"{where} is not a model config: it has none of model_type, architectures or "
            f"hidden_size, but {held}"
        )
    for place in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        for key, value in place.items():
            bound = MAX_COUNT if _COUNT.search(key) else MAX_DIMENSION
            if isinstance(value, (int, float)) and abs(value) > bound:
                raise BrokenFileError(
                    f"{where} has {key[:60]} = {value:.4g}, more than any model has: it is damaged"
                )


def config_dtype(config: Mapping[str, Any]) -> DType | None:
    """Type that the config names, where it does (transformers' ``dtype``, once ``torch_dtype``)."""
    for place in (config, config.get("text_config")):
        for key in ("dtype", "torch_dtype"):
            name = place.get(key) if isinstance(place, Mapping) else None
            known = DTYPES.get(str(name).removeprefix("torch."))
            if known is not None and known.is_floating:
                return known
    return None


def library_of(config: Mapping[str, Any]) -> str:
    """``timm``, ``diffusers`` or ``transformers``: whose fields the config has."""
    if "model_type" not in config and isinstance(config.get("architecture"), str):
        return "timm"
    return "diffusers" if "_class_name" in config else "transformers"


def declared_class(config: Mapping[str, Any]) -> str:
    """Class that the config names, ``unknown class`` where it names none."""
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return str(config.get("architecture") or config.get("_class_name") or "unknown class")[:80]
