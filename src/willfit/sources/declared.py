"""What a config's ``quantization_config`` declares: method, bits, group size; any method known.

Defaults are those of transformers 5.23 `utils/quantization_config.py`, where a field is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from willfit.errors import BrokenFileError
from willfit.scenario.model import StoredQuantization

_SETTINGS_KEYS: Final = ("quantization_config", "compression_config", "quantization")

_DEFAULTS: Final[Mapping[str, tuple[float, int | None]]] = {
    "gptq": (4, 128), "awq": (4, 128), "auto-round": (4, 128), "hqq": (4, 64), "sinq": (4, 64),
    "higgs": (4, 256), "spqr": (3, 16), "metal": (4, 64),
    "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16), "fp_quant": (4, 32),
    "fouroversix": (4, 16),
    "fp8": (8, None), "fbgemm_fp8": (8, None), "eetq": (8, None), "quanto": (8, None),
    "modelopt": (8, None), "compressed-tensors": (8, None), "bitnet": (2, None),
    "torchao": (8, None), "vptq": (2, None), "aqlm": (2, None), "quark": (8, None),
    "gemma": (4, None),
}  # fmt: skip
"""Bits of a weight and group size by method, where the settings do not say."""

_NAMED_BITS: Final[Mapping[str, float]] = {
    "int8": 8, "int4": 4, "int2": 2, "float8": 8, "qint8": 8, "qint4": 4, "qint2": 2, "qfloat8": 8,
}  # fmt: skip
"""quanto's and EETQ's ``weights``."""

_ALGORITHMS: Final[Mapping[str, tuple[float, int | None]]] = {
    "NVFP4": (4, 16), "W4A16_AWQ": (4, 128), "W4A8_AWQ": (4, 128), "FP8": (8, None),
    "MXFP4": (4, 32), "W8A8_SQ_PER_CHANNEL": (8, None),
}  # fmt: skip
"""ModelOpt's ``quant_algo``."""


def stored_quantization(config: Mapping[str, Any]) -> StoredQuantization | None:
    """The quantisation that a config declares; None for ordinary checkpoints.

    Raises `BrokenFileError` where bits or group size are no numbers.
    """
    settings = _settings(config)
    if not settings:
        return None
    method = str(settings.get("quant_method") or "").lower()
    if method in ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit") or (
        not method and {"load_in_4bit", "load_in_8bit"} & settings.keys()
    ):
        return _bitsandbytes(settings)
    if method == "fp8" and settings.get("config_groups"):
        method = "modelopt"  # transformers' own fp8 has no groups: ModelOpt wrote this one
    if not method:
        method = "modelopt" if {"quant_algo", "config_groups"} & settings.keys() else "unknown"
    bits, group = _bits_and_group(method, settings)
    return StoredQuantization(method=method, bits=bits, group_size=group, settings=settings)


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the whole model, or of the language model inside a multimodal one."""
    places = (config, *(config.get(key) for key in ("text_config", "language_config")))
    for place in places:
        for key in _SETTINGS_KEYS:
            found = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(found, Mapping) and found:
                return found
    return None


def _bitsandbytes(settings: Mapping[str, Any]) -> StoredQuantization:
    eight = settings.get("load_in_8bit") or settings.get("_load_in_8bit")
    if eight:
        return StoredQuantization(method="bitsandbytes-int8", bits=8, settings=settings)
    kind = "nf4" if settings.get("bnb_4bit_quant_type") == "nf4" else "fp4"
    return StoredQuantization(
        method=f"bitsandbytes-{kind}", bits=4, group_size=64, settings=settings
    )


def _bits_and_group(method: str, settings: Mapping[str, Any]) -> tuple[float, int | None]:
    weights = _group_weights(settings)
    bits, group = _DEFAULTS.get(method, (16, None))
    if method == "modelopt" or (method == "unknown" and "quant_algo" in settings):
        bits, group = _ALGORITHMS.get(str(settings.get("quant_algo")), (bits, group))
    if method == "aqlm":
        bits, group = _aqlm_bits(settings), _number(settings, "in_group_size", 8)
    named = _NAMED_BITS.get(str(settings.get("weights")))
    nested = settings.get("quant_config")  # hqq keeps its own settings one level down
    weight_params = nested.get("weight_quant_params") if isinstance(nested, Mapping) else None
    for place in (weights, weight_params if isinstance(weight_params, Mapping) else {}, settings):
        for key in ("num_bits", "bits", "w_bit", "nbits"):
            if place.get(key) is not None:
                return _number(place, key, 4), _group_size(place, group)
    return (named or bits), _group_size(settings, group)


def _group_weights(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """``weights`` of the first of ``config_groups`` (compressed-tensors, ModelOpt)."""
    groups = settings.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    return weights if isinstance(weights, Mapping) else {}


def _group_size(place: Mapping[str, Any], default: int | None) -> int | None:
    for key in ("group_size", "q_group_size"):
        if place.get(key) is not None:
            return _number(place, key, 128)
    return default


def _aqlm_bits(settings: Mapping[str, Any]) -> float:
    """Bits of a weight: codebooks × bits of a code / weights that share a code."""
    codebooks = _number(settings, "num_codebooks", 1)
    code_bits = _number(settings, "nbits_per_codebook", 16)
    return codebooks * code_bits / max(1, _number(settings, "in_group_size", 8))


def _number(place: Mapping[str, Any], key: str, default: int) -> int:
    value = place.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= 2**20:
        raise BrokenFileError(
            f"quantization_config has {key} = {str(value)[:40]!r}: expected a whole number"
        )
    if value == 0 and "bit" in key:
        raise BrokenFileError("quantization_config has 0 bits a weight: expected at least 1")
    return value
