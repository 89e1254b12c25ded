"""Quantisation while loading: ``BitsAndBytesConfig`` in all its spellings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from willfit.settings.code.gathered import MISSING, Gathered, dtype_name, plain
from willfit.settings.code.reading import Load
from willfit.settings.code.values import Given, Made, Record, Unknown


def read_unsloth(given: dict[str, Given], gathered: Gathered) -> None:
    """In 4 bit unless it is told not to: unsloth's ``FastLanguageModel.from_pretrained``."""
    four = plain(given["load_in_4bit"].value) if "load_in_4bit" in given else True
    eight = "load_in_8bit" in given and plain(given["load_in_8bit"].value) is True
    if four is True and not eight:
        gathered.flags["quantize"] = "nf4-double"
        gathered.flags["bnb_4bit_compute_dtype"] = "bfloat16"
    gathered.assume("unsloth's own kernels are not counted: memory as with TRL")


def read_quantization(load: Load, gathered: Gathered, given: Mapping[str, Given]) -> None:
    """``quantization_config``, or the switches that stood in its place once."""
    config = given["quantization_config"].value if "quantization_config" in given else None
    if isinstance(config, Made) and config.site.last == "BitsAndBytesConfig":
        _bitsandbytes(config.site.given, gathered)
    elif isinstance(config, Record):
        _bitsandbytes({k: Given(v, config.written[k]) for k, v in config.items()
                       if k in config.written}, gathered)  # fmt: skip
    elif isinstance(config, Made):
        gathered.ignore(f"{config.site.last}: the checkpoint's own quantisation is counted")
    elif isinstance(config, Unknown):
        gathered.assume(f"quantization_config is {config.text!r}, not in the text: not quantised")
    elif any(name in given for name in ("load_in_4bit", "load_in_8bit")) and load.kind != "unsloth":
        _bitsandbytes(given, gathered)


def _bitsandbytes(given: Mapping[str, Given], gathered: Gathered) -> None:
    """``BitsAndBytesConfig``: 4 bit is fp4 unless ``bnb_4bit_quant_type`` says nf4."""
    values = {name: plain(item.value) for name, item in given.items()}
    for name in values:
        if name.startswith("bnb_") and name not in _BNB:
            gathered.ignore(f"{name} is no setting of BitsAndBytesConfig: it does nothing")
    if values.get("load_in_8bit") is True:
        gathered.flags["quantize"] = "int8"
        if any(name.startswith("bnb_4bit") for name in values):
            gathered.ignore("bnb_4bit_* does nothing with load_in_8bit")
        gathered.flags.pop("bnb_4bit_compute_dtype", None)
    elif values.get("load_in_4bit") is True:
        kind = values.get("bnb_4bit_quant_type", "fp4")
        double = values.get("bnb_4bit_use_double_quant") is True
        name = kind if kind in ("nf4", "fp4") else "nf4"
        gathered.flags["quantize"] = f"{name}-double" if double else name
        compute = dtype_name(given["bnb_4bit_compute_dtype"].value) if (
            "bnb_4bit_compute_dtype" in given) else None  # fmt: skip
        if compute is not None:
            gathered.flags["bnb_4bit_compute_dtype"] = compute
        elif values.get("bnb_4bit_compute_dtype") is MISSING:
            gathered.assume("bnb_4bit_compute_dtype is not in the text: float32, its default")
    elif any(values.get(name) is MISSING for name in ("load_in_4bit", "load_in_8bit")):
        gathered.assume("whether the model is quantised is not in the text: it is not counted so")
        return
    skipped = values.get("llm_int8_skip_modules")
    if isinstance(skipped, list) and "quantize" in gathered.flags:
        gathered.flags["llm_int8_skip_modules"] = [str(name) for name in skipped]


_BNB: Final = (
    "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
)  # fmt: skip
