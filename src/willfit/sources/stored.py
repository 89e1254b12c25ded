"""How a checkpoint is already quantised, from its ``quantization_config``; stored tensor shapes.

The layouts are those that the methods write into safetensors files; each function names its own.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from willfit.dtypes import DTYPES, DType
from willfit.errors import UnsupportedError
from willfit.scenario.model import StoredQuantization, TensorRow
from willfit.sources.collapse import split_row
from willfit.units import ceil_div

QUANTIZED_MODULE: Final = "QuantizedLinear"
"""Module class of rows that hold quantised weights or their scales."""

_KEPT_BY_DEFAULT: Final = ("lm_head", "embed_out")
"""Output heads, which every method here leaves alone unless told otherwise
(transformers 5.23 quantizers/base.py `get_modules_to_not_convert`)."""

_Layout = Callable[[TensorRow, StoredQuantization], list[TensorRow]]


def stored_quantization(config: Mapping[str, Any]) -> StoredQuantization | None:
    """The quantisation that ``quantization_config`` declares; None for ordinary checkpoints."""
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
        return None
    method = str(settings.get("quant_method") or settings.get("quant_algo") or "").lower()
    if method in ("bitsandbytes", "") and (settings.get("load_in_4bit") or "bnb_4bit_quant_type" in settings):
        kind = str(settings.get("bnb_4bit_quant_type") or "fp4")
        return StoredQuantization(
            method=f"bitsandbytes-{kind}", bits=4, group_size=64, settings=settings
        )
    if method == "bitsandbytes":
        return StoredQuantization(method="bitsandbytes-int8", bits=8, settings=settings)
    if method in ("gptq", "awq"):
        return StoredQuantization(
            method=method,
            bits=float(settings.get("bits") or settings.get("w_bit") or 4),
            group_size=int(settings.get("group_size") or settings.get("q_group_size") or 128),
            settings=settings,
        )
    if method == "mxfp4":
        return StoredQuantization(method="mxfp4", bits=4, group_size=32, settings=settings)
    if method in ("compressed-tensors", "modelopt", "fp8") or settings.get("config_groups"):
        return _grouped(method, settings)
    if method == "fbgemm_fp8":
        return StoredQuantization(method=method, bits=8, settings=settings)
    return StoredQuantization(method=method or "unknown", bits=0, settings=settings)


def _grouped(method: str, settings: Mapping[str, Any]) -> StoredQuantization:
    """Methods with ``config_groups``; a bare ``fp8`` is transformers' own fine-grained format."""
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        return StoredQuantization(method=method, bits=8, settings=settings)
    first = next(iter(groups.values()))
    weights = (first.get("weights") if isinstance(first, Mapping) else None) or {}
    name = method if method in ("compressed-tensors", "modelopt") else "modelopt"
    return StoredQuantization(
        method=name,
        bits=float(weights.get("num_bits") or 8),
        group_size=int(weights["group_size"]) if weights.get("group_size") else None,
        settings=settings,
    )


def quantized_rows(
    rows: Sequence[TensorRow], quantization: StoredQuantization
) -> tuple[TensorRow, ...]:
    """The table of the ordinary model with its linear layers as the method stores them.

    Raises `UnsupportedError` for a method whose layout is not known.
    """
    layout = _LAYOUTS.get(quantization.method)
    if layout is None:
        raise UnsupportedError(
            f"the stored layout of quantisation {quantization.method!r} is not known: "
            "name the checkpoint by its Hub id or folder, so that its file headers are read"
        )
    kept = _kept(quantization)
    numbered = any(re.search(r"\d", pattern) for pattern in kept)
    result: list[TensorRow] = []
    for row in rows:
        if not _converts(row, quantization):
            result.append(row)
            continue
        for part, left_alone in split_row(row, lambda n: _is_kept(n, kept), by_layer=numbered):
            result.extend([part] if left_alone else layout(part, quantization))
    return tuple(result)


def _converts(row: TensorRow, quantization: StoredQuantization) -> bool:
    if not row.is_parameter or row.tied_to is not None:
        return False
    experts = len(row.shape) == 3 and "expert" in row.name.lower()
    if quantization.method == "mxfp4":
        return experts
    if quantization.method.startswith("bitsandbytes"):
        return row.module in ("Linear", "Conv1D") and row.name.endswith("weight")
    return experts or (row.module in ("Linear", "Conv1D") and row.name.endswith("weight"))


def _kept(quantization: StoredQuantization) -> tuple[str, ...]:
    settings = quantization.settings
    named: list[str] = []
    for key in ("modules_to_not_convert", "ignore", "llm_int8_skip_modules", "exclude_modules"):
        value = settings.get(key)
        if isinstance(value, (list, tuple)):
            named.extend(str(item) for item in value)
    return (*named, *_KEPT_BY_DEFAULT)


def _is_kept(name: str, kept: Sequence[str]) -> bool:
    return any(_matches(name, pattern) for pattern in kept)


def _matches(name: str, pattern: str) -> bool:
    """Whether a module pattern names this tensor: path or part of it, wildcard or ``re:``."""
    owner = name.rpartition(".")[0]
    if pattern.startswith("re:"):
        return re.match(pattern[3:], owner) is not None
    if "*" in pattern:
        return fnmatch.fnmatch(owner, pattern) or fnmatch.fnmatch(owner, pattern + ".*")
    parts, wanted = owner.split("."), pattern.split(".")
    return any(
        parts[start : start + len(wanted)] == wanted for start in range(len(parts))
    )


def _part(row: TensorRow, name: str, shape: tuple[int, ...], dtype: str | DType) -> TensorRow:
    return replace(
        row,
        name=f"{row.owner}.{name}",
        shape=shape,
        dtype=DTYPES[dtype] if isinstance(dtype, str) else dtype,
        module=QUANTIZED_MODULE,
    )


def _out_in(row: TensorRow) -> tuple[int, int]:
    rows, columns = row.shape[-2:]
    return (columns, rows) if row.module == "Conv1D" else (rows, columns)


def _gptq(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """qweight [K·b/32, N], qzeros [K/g, N·b/32], scales [K/g, N], g_idx [K] (GPTQModel/AutoGPTQ)."""
    n, k = _out_in(row)
    bits, group = int(quantization.bits), quantization.group_size or 128
    groups = ceil_div(k, group if group > 0 else k)
    return [
        _part(row, "qweight", (ceil_div(k * bits, 32), n), "int32"),
        _part(row, "qzeros", (groups, ceil_div(n * bits, 32)), "int32"),
        _part(row, "scales", (groups, n), "float16"),
        _part(row, "g_idx", (k,), "int32"),
    ]


def _awq(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """qweight [K, N·b/32], qzeros [K/g, N·b/32], scales [K/g, N] (AutoAWQ ``gemm``)."""
    n, k = _out_in(row)
    bits, group = int(quantization.bits), quantization.group_size or 128
    packed = ceil_div(n * bits, 32)
    return [
        _part(row, "qweight", (k, packed), "int32"),
        _part(row, "qzeros", (ceil_div(k, group), packed), "int32"),
        _part(row, "scales", (ceil_div(k, group), n), "float16"),
    ]


def _fp8(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """E4m3 weight and float32 scales by block of 128×128 (``weight_block_size``), else one scale."""
    *lead, n, k = row.shape
    block = quantization.settings.get("weight_block_size")
    scale = (
        (*lead, ceil_div(n, int(block[0])), ceil_div(k, int(block[1])))
        if isinstance(block, (list, tuple)) and len(block) == 2
        else (*lead,)
    )
    return [
        _part(row, "weight", tuple(row.shape), "float8_e4m3fn"),
        _part(row, "weight_scale_inv", scale, "float32"),
    ]


def _fbgemm(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """E4m3 weight and one float32 scale a row (transformers integrations/fbgemm_fp8.py)."""
    *lead, n, _ = row.shape
    return [
        _part(row, "weight", tuple(row.shape), "float8_e4m3fn"),
        _part(row, "weight_scale", (*lead, n, 1), "float32"),
    ]


def _compressed(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """compressed-tensors: packed int4 in int32 words, or one byte a weight, and 16-bit scales."""
    *lead, n, k = row.shape
    group = quantization.group_size
    scale = _part(row, "weight_scale", (*lead, n, ceil_div(k, group) if group else 1), row.dtype)
    if quantization.bits == 4:
        packed = _part(row, "weight_packed", (*lead, n, ceil_div(k, 8)), "int32")
        return [packed, scale, _part(row, "weight_shape", (2,), "int64")]
    kind = "int8" if quantization.settings.get("format") == "int-quantized" else "float8_e4m3fn"
    return [_part(row, "weight", tuple(row.shape), kind), scale]


def _modelopt(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """ModelOpt NVFP4: two weights a byte, e4m3 scales by 16, float32 scalars; FP8: one scale."""
    *lead, n, k = row.shape
    scalars = [_part(row, name, (*lead,), "float32") for name in ("weight_scale_2", "input_scale")]
    if quantization.bits == 4:
        group = quantization.group_size or 16
        return [
            _part(row, "weight", (*lead, n, ceil_div(k, 2)), "uint8"),
            _part(row, "weight_scale", (*lead, n, ceil_div(k, group)), "float8_e4m3fn"),
            *scalars,
        ]
    return [_part(row, "weight", tuple(row.shape), "float8_e4m3fn"), *scalars]


def _mxfp4(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """Experts as blocks of 32 four-bit weights and one e8m0 scale byte (OCP MX; gpt-oss)."""
    elements = row.num_elements
    return [
        _part(row, f"{row.name.rpartition('.')[2]}_blocks", (elements // 2,), "uint8"),
        _part(row, f"{row.name.rpartition('.')[2]}_scales", (ceil_div(elements, 32),), "uint8"),
    ]


def _bitsandbytes(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """Packed nf4/fp4 and its state (bitsandbytes 0.50.2 functional.py `QuantState.as_dict`)."""
    elements = math.prod(row.shape)
    blocks = ceil_div(elements, 64)
    packed = _part(row, "weight", (ceil_div(elements, 2), 1), "uint8")
    code = _part(row, "weight.quant_map", (16,), "float32")
    if not quantization.settings.get("bnb_4bit_use_double_quant"):
        return [packed, _part(row, "weight.absmax", (blocks,), "float32"), code]
    return [
        packed,
        _part(row, "weight.absmax", (blocks,), "uint8"),
        code,
        _part(row, "weight.nested_absmax", (ceil_div(blocks, 256),), "float32"),
        _part(row, "weight.nested_quant_map", (256,), "float32"),
        _part(row, "weight.nested_offset", (), "float32"),
    ]


def _bitsandbytes_int8(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """int8 weight and one float32 scale a row (bitsandbytes `Int8Params`)."""
    n, _ = _out_in(row)
    return [_part(row, "weight", tuple(row.shape), "int8"), _part(row, "SCB", (n,), "float32")]


_LAYOUTS: Final[dict[str, _Layout]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "mxfp4": _mxfp4,
    "bitsandbytes-nf4": _bitsandbytes,
    "bitsandbytes-fp4": _bitsandbytes,
    "bitsandbytes-int8": _bitsandbytes_int8,
}
