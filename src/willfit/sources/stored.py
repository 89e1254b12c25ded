"""How quantised checkpoints are stored: each method's tensors for one linear layer.

The layouts are those that the methods write into safetensors files; each function names its own.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from willfit.dtypes import DTYPES, DType
from willfit.errors import BrokenFileError, UnsupportedError
from willfit.scenario.collapse import split_row
from willfit.scenario.model import StoredQuantization, TensorRow
from willfit.sources.declared import stored_quantization
from willfit.units import ceil_div

__all__ = ["QUANTIZED_MODULE", "quantized_rows", "stored_quantization"]

QUANTIZED_MODULE: Final = "QuantizedLinear"
"""Module class of rows that hold quantised weights or their scales."""

_KEPT_BY_DEFAULT: Final = ("lm_head", "embed_out")
"""Output heads, which every method here leaves alone unless told otherwise
(transformers 5.23 quantizers/base.py `get_modules_to_not_convert`)."""

_Layout = Callable[[TensorRow, StoredQuantization], list[TensorRow]]


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
    groups = _path_groups(quantization)
    if groups:
        return tuple(part for row in rows for part in _by_group(row, groups, layout))
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


_Group = tuple[frozenset[str], StoredQuantization]


def _path_groups(quantization: StoredQuantization) -> list[_Group]:
    """``config_groups`` that name modules by path, each with its bits; [] where they name classes.

    ModelOpt writes mixed precision so (``quant_algo: MIXED_PRECISION``): what no group names
    stays as it is, and a head that one names is quantised.
    """
    found = quantization.settings.get("config_groups")
    groups = list(found.values()) if isinstance(found, Mapping) else []
    if len(groups) < 2 or not all(isinstance(group, Mapping) for group in groups):
        return []
    named = frozenset[str]().union(*map(_targets, groups))
    if not any("." in name for name in named) or any(name.startswith("re:") for name in named):
        return []
    return [(_targets(group), _of_group(group, quantization)) for group in groups]


def _targets(group: Mapping[str, Any]) -> frozenset[str]:
    targets = group.get("targets")
    return frozenset(map(str, targets)) if isinstance(targets, (list, tuple)) else frozenset()


def _of_group(group: Mapping[str, Any], quantization: StoredQuantization) -> StoredQuantization:
    """The quantisation with this group's bits, read as the config's first group is."""
    own = stored_quantization(
        {"quantization_config": {**quantization.settings, "config_groups": {"only": group}}}
    )
    return own or quantization


def _by_group(row: TensorRow, groups: Sequence[_Group], layout: _Layout) -> list[TensorRow]:
    """The row's layers, each as the first group that names its module stores it."""
    if not groups or not _converts(row, groups[0][1]):
        return [row]
    (targets, own), *rest = groups
    parts = split_row(row, lambda name: name.rpartition(".")[0] in targets, by_layer=True)
    return [
        stored
        for part, chosen in parts
        for stored in (layout(part, own) if chosen else _by_group(part, rest, layout))
    ]


def _kept(quantization: StoredQuantization) -> tuple[str, ...]:
    settings = quantization.settings
    named: list[str] = []
    for key in (
        "modules_to_not_convert", "ignore", "llm_int8_skip_modules", "exclude_modules",
        "ignored_layers",
    ):  # fmt: skip
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
        return _compiled(pattern[3:]).match(owner) is not None
    if "*" in pattern:
        return fnmatch.fnmatch(owner, pattern) or fnmatch.fnmatch(owner, pattern + ".*")
    parts, wanted = owner.split("."), pattern.split(".")
    return any(parts[start : start + len(wanted)] == wanted for start in range(len(parts)))


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A stranger's regular expression, refused where matching it could take for ever."""
    repeats = len(re.findall(r"[*+{]", pattern))
    if repeats > 3 or re.search(r"\)[*+{]", pattern) or len(pattern) > 500:
        raise UnsupportedError(
            f"quantization_config ignores modules by the expression {pattern[:60]!r}, which is "
            "too involved to match safely: name the checkpoint so that its file headers are read"
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        raise BrokenFileError(
            f"quantization_config holds the broken expression {pattern[:60]!r}: {error}"
        ) from error


def _part(row: TensorRow, name: str, shape: tuple[int, ...], dtype: str | DType) -> TensorRow:
    return replace(
        row,
        name=f"{row.owner}.{name}",
        shape=shape,
        dtype=DTYPES[dtype] if isinstance(dtype, str) else dtype,
        module=QUANTIZED_MODULE,
    )


def _named(row: TensorRow, suffix: str = "") -> str:
    """``weight`` and suffix; of fused experts their own name and suffix."""
    return row.name.rpartition(".")[2] + suffix


def _input_scale(row: TensorRow) -> str:
    """``input_scale``, of fused experts ``gate_up_proj_input_scale``."""
    last = row.name.rpartition(".")[2]
    return "input_scale" if last == "weight" else f"{last}_input_scale"


def _out_in(row: TensorRow) -> tuple[int, int]:
    rows, columns = row.shape[-2:]
    return (columns, rows) if row.module == "Conv1D" else (rows, columns)


def _gptq(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """GPTQ: qweight [K·b/32, N], qzeros [K/g, N·b/32], scales [K/g, N], g_idx [K].

    Of fused experts so many of each, which the files hold one by one.
    """
    lead = row.shape[:-2]
    n, k = _out_in(row)
    bits, group = int(quantization.bits), quantization.group_size or 128
    groups = ceil_div(k, group if group > 0 else k)
    return [
        _part(row, _packed(row, "qweight"), (*lead, ceil_div(k * bits, 32), n), "int32"),
        _part(row, _packed(row, "qzeros"), (*lead, groups, ceil_div(n * bits, 32)), "int32"),
        _part(row, _packed(row, "scales"), (*lead, groups, n), "float16"),
        _part(row, _packed(row, "g_idx"), (*lead, k), "int32"),
    ]


def _awq(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """AutoAWQ ``gemm``: qweight [K, N·b/32], qzeros [K/g, N·b/32], scales [K/g, N]."""
    lead = row.shape[:-2]
    n, k = _out_in(row)
    bits, group = int(quantization.bits), quantization.group_size or 128
    packed = ceil_div(n * bits, 32)
    return [
        _part(row, _packed(row, "qweight"), (*lead, k, packed), "int32"),
        _part(row, _packed(row, "qzeros"), (*lead, ceil_div(k, group), packed), "int32"),
        _part(row, _packed(row, "scales"), (*lead, ceil_div(k, group), n), "float16"),
    ]


def _packed(row: TensorRow, name: str) -> str:
    """``qweight``; of fused experts ``down_proj.qweight``, below the parameter's own name."""
    return name if len(row.shape) == 2 else f"{row.name.rpartition('.')[2]}.{name}"


def _fp8(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """E4m3 weight and float32 scales by ``weight_block_size`` (128×128), else one scale."""
    *lead, n, k = row.shape
    block = quantization.settings.get("weight_block_size")
    scale = (
        (*lead, ceil_div(n, int(block[0])), ceil_div(k, int(block[1])))
        if isinstance(block, (list, tuple)) and len(block) == 2
        else (*lead,)
    )
    return [
        _part(row, _named(row), tuple(row.shape), "float8_e4m3fn"),
        _part(row, _named(row, "_scale_inv"), scale, "float32"),
    ]


def _fbgemm(row: TensorRow, _: StoredQuantization) -> list[TensorRow]:
    """E4m3 weight and one float32 scale a row (transformers integrations/fbgemm_fp8.py)."""
    *lead, n = row.shape[:-1]
    return [
        _part(row, _named(row), tuple(row.shape), "float8_e4m3fn"),
        _part(row, _named(row, "_scale"), (*lead, n, 1), "float32"),
    ]


def _compressed(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """compressed-tensors: packed int4 in int32 words, or one byte a weight, and 16-bit scales."""
    *lead, n, k = row.shape
    group = quantization.group_size
    scale = _part(
        row, _named(row, "_scale"), (*lead, n, ceil_div(k, group) if group else 1), row.dtype
    )
    if quantization.bits == 4:
        packed = _part(row, _named(row, "_packed"), (*lead, n, ceil_div(k, 8)), "int32")
        return [packed, scale, _part(row, _named(row, "_shape"), (2,), "int64")]
    kind = "int8" if quantization.settings.get("format") == "int-quantized" else "float8_e4m3fn"
    return [_part(row, _named(row), tuple(row.shape), kind), scale]


def _modelopt(row: TensorRow, quantization: StoredQuantization) -> list[TensorRow]:
    """ModelOpt NVFP4: two weights a byte, e4m3 scales by 16, float32 scalars; FP8: one scale."""
    *lead, n, k = row.shape
    names = (_named(row, "_scale_2"), _input_scale(row))
    scalars = [_part(row, name, (*lead,), "float32") for name in names]
    if quantization.bits == 4:
        group = quantization.group_size or 16
        return [
            _part(row, _named(row), (*lead, n, ceil_div(k, 2)), "uint8"),
            _part(row, _named(row, "_scale"), (*lead, n, ceil_div(k, group)), "float8_e4m3fn"),
            *scalars,
        ]
    return [_part(row, _named(row), tuple(row.shape), "float8_e4m3fn"), *scalars]


def _mxfp4(row: TensorRow, _: StoredQuantization) -> list[TensorRow]:
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


def _bitsandbytes_int8(row: TensorRow, _: StoredQuantization) -> list[TensorRow]:
    """int8 weight and one float32 scale a row (bitsandbytes `Int8Params`)."""
    n = _out_in(row)[0]
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
