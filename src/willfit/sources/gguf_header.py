"""Headers of GGUF files: metadata and tensor list, read strictly and within bounds.

Layout (ggml docs/gguf.md): magic, version, counts, key–value pairs, tensor infos, padding, data.
gguf-py's reader maps the whole file and makes an array of every token; this one reads the first
megabytes and steps over vocabularies, so that it works on a part of a remote file as well.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.dtypes import DTYPES
from willfit.errors import BrokenFileError, UnsupportedError
from willfit.scenario.collapse import NamedTensor
from willfit.sources.limits import MAX_DIMENSION, MAX_GGUF_HEADER_BYTES, MAX_TENSORS
from willfit.sources.safetensors import tensor_name_is_usable
from willfit.units import format_bytes, round_up

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_PAIRS: Final = 65_536
_MAX_KEPT: Final = 4096
"""Longest array and text that is kept; of longer ones only the length is (vocabularies)."""
_MAX_NESTING: Final = 4
_STRING, _ARRAY = 8, 9

_SCALARS: Final[Mapping[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""struct format by value type (gguf-py constants.py ``GGUFValueType``)."""

TYPES: Final[Mapping[int, str]] = {
    0: "float32", 1: "float16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0",
    10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k",
    16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s",
    22: "iq2_s", 23: "iq4_xs", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64",
    29: "iq1_m", 30: "bfloat16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip
"""Name of an element type by its number (gguf-py constants.py ``GGMLQuantizationType``)."""


@dataclass(frozen=True, kw_only=True)
class LongArray:
    """An array too long to keep."""

    length: int


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says it holds."""

    metadata: Mapping[str, Any]
    """Values by key; long arrays as `LongArray`."""
    tensors: tuple[NamedTensor, ...]
    """Shapes in torch's order (GGUF lists the innermost dimension first)."""
    header_bytes: int
    """Where the data starts."""


class IncompleteError(Exception):
    """The header goes on beyond the bytes at hand."""


class _Cursor:
    """A position in the first bytes of a file."""

    def __init__(self, content: bytes, where: str, file_bytes: int | None) -> None:
        self.content, self.where, self.position = content, where, 0
        self.file_bytes = file_bytes

    def step(self, length: int) -> int:
        """Move on by ``length`` bytes; returns where they start."""
        start, self.position = self.position, self.position + length
        if self.position > len(self.content):
            self._beyond()
        return start

    def _beyond(self) -> None:
        if self.file_bytes is not None and self.position > self.file_bytes:
            raise BrokenFileError(
                f"{self.where} is truncated or lies: its header goes on to byte "
                f"{self.position:,} and the file has {self.file_bytes:,}: download it again"
            )
        if self.position > MAX_GGUF_HEADER_BYTES:
            raise BrokenFileError(
                f"{self.where} announces a header of more than "
                f"{format_bytes(MAX_GGUF_HEADER_BYTES)}: it is no GGUF model, or it is damaged"
            )
        raise IncompleteError

    def number(self, form: str) -> Any:
        """One little-endian number."""
        start = self.step(struct.calcsize("<" + form))
        return struct.unpack_from("<" + form, self.content, start)[0]

    def text(self, what: str, limit: int = _MAX_KEPT) -> str:
        """A text with its length before it; longer than ``limit`` is stepped over."""
        length = self.number("Q")
        start = self.step(length)
        if length > limit:
            return ""
        try:
            return self.content[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise BrokenFileError(
                f"{self.where}: {what} is not UTF-8: the file is damaged"
            ) from error

    def skip_texts(self, count: int) -> None:
        """Step over ``count`` texts without decoding them."""
        self.step(0 if count * 8 <= len(self.content) else count * 8)
        unpack, content, position = struct.Struct("<Q").unpack_from, self.content, self.position
        for _ in range(count):
            if position + 8 > len(content):
                break
            position += 8 + unpack(content, position)[0]
        else:
            self.step(position - self.position)
            return
        self.step(max(position + 8 - self.position, 0))


def parse_gguf(content: bytes, where: str, file_bytes: int | None = None) -> GgufHeader:
    """The header at the start of a file, checked against the file's size where that is known.

    Raises `IncompleteError` when ``content`` ends before the header does, `BrokenFileError` for
    what is no GGUF, and `UnsupportedError` for versions and element types that are not known.
    """
    cursor = _Cursor(content, where, file_bytes)
    if content[:4] != MAGIC[: len(content)]:
        raise BrokenFileError(f"{where} is not a GGUF file: it does not start with GGUF")
    cursor.step(4)
    _check_version(cursor)
    num_tensors, num_pairs = cursor.number("Q"), cursor.number("Q")
    if num_tensors > MAX_TENSORS or num_pairs > _MAX_PAIRS:
        raise BrokenFileError(
            f"{where} announces {num_tensors:,} tensors and {num_pairs:,} settings, more than "
            "any model has: it is damaged"
        )
    metadata = _metadata(cursor, num_pairs)
    infos = [_tensor_info(cursor) for _ in range(num_tensors)]
    start = round_up(cursor.position, _alignment(metadata, where))
    _check_data(infos, start, where, file_bytes)
    return GgufHeader(
        metadata=metadata, tensors=tuple(tensor for tensor, _, _ in infos), header_bytes=start
    )


def _check_version(cursor: _Cursor) -> None:
    version = cursor.number("I")
    if version in _VERSIONS:
        return
    if version & 0xFFFF == 0 and version >> 24 in _VERSIONS:
        raise UnsupportedError(f"{cursor.where} is a big-endian GGUF: convert it to little-endian")
    raise UnsupportedError(
        f"{cursor.where} is GGUF version {version}, expected 2 or 3: convert it with a current "
        "llama.cpp"
    )


def _metadata(cursor: _Cursor, num_pairs: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.text("a key", 65_535)
        if key in found:
            raise BrokenFileError(f"{cursor.where} has the setting {key[:80]!r} twice")
        found[key] = _value(cursor, cursor.number("I"), key, _MAX_NESTING)
    return found


def _value(cursor: _Cursor, kind: int, key: str, depth: int) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.text(f"the setting {key[:80]!r}")
    if kind != _ARRAY or depth == 0:
        raise BrokenFileError(
            f"{cursor.where}: the setting {key[:80]!r} has the unknown type {kind}: it is damaged"
        )
    inner, length = cursor.number("I"), cursor.number("Q")
    if inner in _SCALARS:
        return _numbers(cursor, _SCALARS[inner], length)
    if inner == _STRING:
        cursor.skip_texts(length)
        return LongArray(length=length)
    if length > _MAX_KEPT:
        raise BrokenFileError(f"{cursor.where}: the setting {key[:80]!r} is an array of arrays")
    return [_value(cursor, inner, key, depth - 1) for _ in range(length)]


def _numbers(cursor: _Cursor, form: str, length: int) -> list[Any] | LongArray:
    start = cursor.step(length * struct.calcsize("<" + form))
    if length > _MAX_KEPT:
        return LongArray(length=length)
    return list(struct.unpack_from(f"<{length}{form}", cursor.content, start))


def _tensor_info(cursor: _Cursor) -> tuple[NamedTensor, int, int]:
    """(tensor, offset of its data, bytes of its data)."""
    name = cursor.text("a tensor's name")
    rank = cursor.number("I")
    if not tensor_name_is_usable(name) or rank > 8:
        raise _broken(cursor.where, name, f"has {rank} dimensions or no usable name")
    dims = tuple(cursor.number("Q") for _ in range(rank))
    kind, offset = cursor.number("I"), cursor.number("Q")
    known = TYPES.get(kind)
    if known is None:
        raise UnsupportedError(
            f"{cursor.where}: tensor {name[:80]!r} has the element type {kind}, which is not "
            "known: a newer willfit may know it, or the file is damaged"
        )
    dtype = DTYPES[known]
    if any(dim > MAX_DIMENSION for dim in dims) or (dims and dims[0] % dtype.block_size):
        raise _broken(
            cursor.where, name, f"has the shape {list(dims)}, impossible in blocks of {known}"
        )
    tensor = NamedTensor(name=name, shape=dims[::-1], dtype=known)
    elements = 1
    for dim in dims:
        elements *= dim
    return tensor, offset, dtype.num_bytes(elements)


def _alignment(metadata: Mapping[str, Any], where: str) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 1 <= value <= 2**20 or value & (value - 1):
        raise BrokenFileError(f"{where} is aligned to {str(value)[:40]}, expected a power of two")
    return value


def _check_data(
    infos: list[tuple[NamedTensor, int, int]], start: int, where: str, file_bytes: int | None
) -> None:
    """No tensor twice, none over another, none beyond the end of the file."""
    names: set[str] = set()
    position = 0
    for tensor, offset, nbytes in sorted(infos, key=lambda info: (info[1], info[2])):
        if tensor.name in names:
            raise _broken(where, tensor.name, "is there twice")
        if offset < position:
            raise _broken(where, tensor.name, "overlaps the data of another tensor")
        names.add(tensor.name)
        position = offset + nbytes
    if file_bytes is not None and start + position > file_bytes:
        raise BrokenFileError(
            f"{where} is truncated: its header describes {start + position:,} bytes and the file "
            f"has {file_bytes:,}: download it again"
        )


def _broken(where: str, name: str, fault: str) -> BrokenFileError:
    return BrokenFileError(f"{where}: tensor {name[:80]!r} {fault}: the file is damaged")
