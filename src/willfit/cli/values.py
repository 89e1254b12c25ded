"""Values of command-line settings that are more than a word: maps, lengths, quantisation."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from willfit.errors import InputError
from willfit.scenario.model import ModelSpec
from willfit.scenario.workload import Engine, Quantization
from willfit.units import parse_bytes


def parse_max_memory(text: str) -> dict[int | str, int]:
    """Bytes by device of ``'{0: "600MB", 1: "1GB", "cpu": "30GB"}'`` (or ``0=600MB,1=1GB``)."""
    hint = 'expected a map such as \'{0: "600MB", 1: "1GB", "cpu": "30GB"}\''
    if len(text) > 4096:
        raise InputError(f"--max-memory is {len(text)} characters long: {hint}")
    pairs = _literal(text) if text.strip().startswith("{") else _assignments(text)
    if not pairs:
        raise InputError(f"cannot read --max-memory {text[:80]!r}: {hint}")
    return {_device(key): parse_bytes(amount) for key, amount in pairs.items()}


def _literal(text: str) -> dict[object, str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, (int, str)) for v in value.values()):
        return {}
    return {key: str(amount) for key, amount in value.items()}


def _assignments(text: str) -> dict[object, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    return {key.strip(): amount for key, equals, amount in pairs if equals}


def _device(key: object) -> int | str:
    text = str(key).strip().lower()
    number = text.removeprefix("cuda:")
    if number.isdecimal() and len(number) < 4:
        return int(number)
    if text in ("cpu", "disk"):
        return text
    raise InputError(f"unknown device {text[:40]!r} in --max-memory: expected 0, 1, … or cpu")


def parse_quantize(
    text: str, *, compute_dtype: str | None, skip_modules: list[str] | None
) -> Quantization:
    """The quantisation called ``int8``, ``nf4``, ``fp4``, ``nf4-double`` or ``fp4-double``."""
    from willfit.dtypes import parse_dtype

    scheme, _, double = text.partition("-")
    if scheme not in ("int8", "nf4", "fp4") or double not in ("", "double"):
        raise InputError(
            f"unknown quantisation {text[:40]!r}: expected int8, nf4, fp4, nf4-double or fp4-double"
        )
    if compute_dtype is not None and scheme == "int8":
        raise InputError(
            "bnb_4bit_compute_dtype has no effect with int8, which computes in 16 bit: leave it out"
        )
    return Quantization(
        scheme=scheme,  # type: ignore[arg-type]  # checked above
        double_quant=double == "double",
        compute_dtype=parse_dtype(compute_dtype) if compute_dtype else None,
        skip_modules=tuple(skip_modules) if skip_modules is not None else None,
    )


def engine_of(options: Mapping[str, Any], model: ModelSpec) -> Engine:
    """The engine asked for, else the one that runs such a file: llama.cpp a GGUF."""
    usual: Engine = "llama.cpp" if model.library == "gguf" else "transformers"
    return options.get("engine") or usual
