"""Element types as (block_size, block_bytes): how many elements share how many bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.errors import InputError
from willfit.units import ceil_div


@dataclass(frozen=True, kw_only=True)
class DType:
    """An element type; ``block_size`` elements take ``block_bytes`` bytes."""

    name: str
    """Name as torch or GGUF spells it, in lower case: ``bfloat16``, ``q4_k``."""
    block_size: int = 1
    """Elements in one block (1 for ordinary types)."""
    block_bytes: int
    """Bytes that one block takes, scales included."""

    def num_bytes(self, num_elements: int) -> int:
        """Bytes of ``num_elements`` elements stored contiguously in whole blocks."""
        return ceil_div(num_elements, self.block_size) * self.block_bytes

    @property
    def is_floating(self) -> bool:
        """Whether torch calls the type floating point (blocks count as quantised, not floating)."""
        return self.block_size == 1 and self.name.startswith(("float", "bfloat"))


def _plain(block_bytes: int, *names: str) -> list[DType]:
    return [DType(name=name, block_bytes=block_bytes) for name in names]


# GGUF block layouts: gguf-py `constants.py: GGML_QUANT_SIZES` (q8_1 is never stored in a file).
_GGUF: Final[dict[str, tuple[int, int]]] = {
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176),
    "q6_k": (256, 210), "q8_k": (256, 292),
    "iq1_s": (256, 50), "iq1_m": (256, 56), "iq2_xxs": (256, 66), "iq2_xs": (256, 74),
    "iq2_s": (256, 82), "iq3_xxs": (256, 98), "iq3_s": (256, 110), "iq4_nl": (32, 18),
    "iq4_xs": (256, 136), "tq1_0": (256, 54), "tq2_0": (256, 66), "mxfp4": (32, 17),
    "nvfp4": (64, 36), "q1_0": (128, 18),
}  # fmt: skip

DTYPES: Final[dict[str, DType]] = {
    dtype.name: dtype
    for dtype in [
        *_plain(8, "float64", "int64", "uint64", "complex64"),
        *_plain(16, "complex128"),
        *_plain(4, "float32", "int32", "uint32"),
        *_plain(2, "float16", "bfloat16", "int16", "uint16"),
        *_plain(1, "int8", "uint8", "bool", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
        DType(name="int4", block_size=2, block_bytes=1),
        DType(name="float4_e2m1fn_x2", block_size=2, block_bytes=1),
        *(DType(name=name, block_size=size, block_bytes=nbytes)
          for name, (size, nbytes) in _GGUF.items()),
    ]
}  # fmt: skip
"""Every element type by its name."""

_ALIASES: Final[dict[str, str]] = {
    # short names of torch and of people
    "fp32": "float32", "f32": "float32", "float": "float32", "fp16": "float16", "f16": "float16",
    "half": "float16", "bf16": "bfloat16", "f64": "float64", "double": "float64",
    "fp8": "float8_e4m3fn", "float8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2", "float8_e4m3": "float8_e4m3fn",
    # safetensors header names
    "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2", "f8_e8m0": "float8_e8m0fnu",
    "f4": "float4_e2m1fn_x2", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "c64": "complex64",
}  # fmt: skip

FLOAT32: Final = DTYPES["float32"]
FLOAT16: Final = DTYPES["float16"]
BFLOAT16: Final = DTYPES["bfloat16"]
INT8: Final = DTYPES["int8"]
UINT8: Final = DTYPES["uint8"]
INT64: Final = DTYPES["int64"]


def parse_dtype(text: str) -> DType:
    """The type called ``text``: ``bfloat16``, ``torch.bfloat16``, ``bf16``, ``BF16``, ``Q4_K``.

    Raises `InputError` naming the usual types when there is none.
    """
    name = text.strip().lower().removeprefix("torch.")
    dtype = DTYPES.get(_ALIASES.get(name, name))
    if dtype is None:
        raise InputError(
            f"unknown dtype {text[:40]!r}: expected one of float32, float16, bfloat16, "
            "float8_e4m3fn, int8 or another type of torch or GGUF"
        )
    return dtype
