"""Headers of safetensors files: names, shapes and types, without reading a weight.

Layout: eight bytes with the header's length (little endian), the header as JSON, then the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, UnsupportedError
from willfit.scenario.collapse import NamedTensor
from willfit.sources.limits import (
    MAX_DIMENSION,
    MAX_HEADER_BYTES,
    MAX_INDEX_BYTES,
    MAX_TENSORS,
    json_object,
    read_bounded,
    unreadable,
)

PREFIX_BYTES: Final = 8
"""The header's length."""

SAFETENSORS_BITS: Final[Mapping[str, tuple[str, int]]] = {
    "BOOL": ("bool", 8), "U8": ("uint8", 8), "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8), "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8), "F4": ("float4_e2m1fn_x2", 4),
    "I16": ("int16", 16), "U16": ("uint16", 16), "F16": ("float16", 16), "BF16": ("bfloat16", 16),
    "I32": ("int32", 32), "U32": ("uint32", 32), "F32": ("float32", 32), "C64": ("complex64", 64),
    "F64": ("float64", 64), "I64": ("int64", 64), "U64": ("uint64", 64),
    "F8_E4M3FNUZ": ("float8_e4m3fn", 8), "F8_E5M2FNUZ": ("float8_e5m2", 8),
}  # fmt: skip
"""Name here and bits of one element by header name (safetensors 0.8 ``Dtype``)."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a safetensors file says it holds."""

    tensors: tuple[NamedTensor, ...]
    metadata: Mapping[str, str]
    """The free text of ``__metadata__``."""
    header_bytes: int
    """Length of the prefix and the JSON together: where the data starts."""


def header_length(prefix: bytes, where: str, file_bytes: int | None = None) -> int:
    """Length of the JSON header that a file's first eight bytes announce.

    ``file_bytes`` is the size of the whole file, None where it is not known.
    """
    if len(prefix) < PREFIX_BYTES:
        raise BrokenFileError(
            f"{where} has {len(prefix)} bytes, too few for a safetensors file: download it again"
        )
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise BrokenFileError(
            f"{where} announces a header of {length:,} bytes, and the safetensors format allows "
            f"{MAX_HEADER_BYTES:,}: it is not a safetensors file, or it is damaged"
        )
    if length < 2:
        raise BrokenFileError(
            f"{where} announces a header of {length} bytes, too few for a JSON object: "
            "it is not a safetensors file, or it is damaged"
        )
    if file_bytes is not None and PREFIX_BYTES + length > file_bytes:
        raise BrokenFileError(
            f"{where} announces a header of {length:,} bytes but has {file_bytes:,} in all: "
            "it is truncated, download it again"
        )
    return length


def read_header(path: Path) -> Header:
    """Header of a file on disk; reads the header alone."""
    try:
        with path.open("rb") as file:
            file_bytes = path.stat().st_size
            length = header_length(file.read(PREFIX_BYTES), str(path), file_bytes)
            content = file.read(length)
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_header(content, str(path), file_bytes)


def parse_header(content: bytes, where: str, file_bytes: int | None = None) -> Header:
    """The JSON part of a header, checked: types, shapes, ranges, no overlaps, no holes."""
    fields = json_object(content.rstrip(b" "), f"the safetensors header of {where}")
    metadata = fields.pop("__metadata__", {})
    if len(fields) > MAX_TENSORS:
        raise BrokenFileError(f"{where} lists {len(fields):,} tensors, more than any checkpoint")
    found = [_tensor(name, entry, where) for name, entry in fields.items()]
    start = PREFIX_BYTES + len(content)
    _check_ranges(found, where, None if file_bytes is None else file_bytes - start)
    return Header(
        tensors=tuple(tensor for tensor, _, _ in found),
        metadata=metadata if isinstance(metadata, dict) else {},
        header_bytes=start,
    )


def _tensor(name: str, entry: Any, where: str) -> tuple[NamedTensor, int, int]:
    fields = entry if isinstance(entry, dict) else {}
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise _broken(where, name, "needs a dtype, a shape and two data_offsets of whole numbers")
    if not tensor_name_is_usable(name):
        raise _broken(where, name, "has a name that no module can have")
    known = SAFETENSORS_BITS.get(str(fields.get("dtype")))
    if known is None:
        raise UnsupportedError(
            f"{where}: tensor {name[:80]!r} has the type {str(fields.get('dtype'))[:20]!r}, "
            f"expected one of {', '.join(SAFETENSORS_BITS)}: a newer willfit may know it"
        )
    dtype, bits = known
    start, end = offsets
    total_bits = math.prod(shape) * bits
    if start > end or total_bits != (end - start) * 8:
        raise _broken(
            where,
            name,
            f"lies about its size: {shape} of {fields['dtype']} take {-(-total_bits // 8):,} bytes "
            f"and its data_offsets [{start}, {end}] hold {end - start:,}",
        )
    return NamedTensor(name=name, shape=tuple(shape), dtype=dtype), start, end


def tensor_name_is_usable(name: str) -> bool:
    """Whether a name from a file can be a module path: printable, short, no pattern signs."""
    return 0 < len(name) <= 1024 and name.isprintable() and not set("{}") & set(name)


def _whole_numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(type(item) is int and 0 <= item <= MAX_DIMENSION for item in value)
    )


def _check_ranges(
    found: list[tuple[NamedTensor, int, int]], where: str, data_bytes: int | None
) -> None:
    """Data lies back to back from 0 to the end of the file, as the format demands."""
    position, previous = 0, "the header"
    for tensor, start, end in sorted(found, key=lambda item: (item[1], item[2])):
        if start < position:
            raise _broken(where, tensor.name, f"overlaps the data of {previous[:80]!r}")
        if start > position:
            raise _broken(where, tensor.name, f"leaves a hole of {start - position:,} bytes")
        position, previous = end, tensor.name
    if data_bytes is not None and position > data_bytes:
        raise BrokenFileError(
            f"{where} is truncated: its header describes {position:,} bytes of weights and "
            f"{data_bytes:,} are there: download it again"
        )
    if data_bytes is not None and position < data_bytes:
        raise BrokenFileError(
            f"{where} has {data_bytes - position:,} bytes that its header does not describe: "
            "it is damaged, download it again"
        )


def _broken(where: str, name: str, fault: str) -> BrokenFileError:
    return BrokenFileError(f"{where}: tensor {name[:80]!r} {fault}: the file is damaged")


def parse_index(content: bytes, where: str) -> dict[str, list[str]]:
    """Shards of a ``model.safetensors.index.json``, each with the tensors it must hold."""
    weight_map = json_object(content, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BrokenFileError(
            f"{where} has no weight_map from tensors to files: it is not a safetensors index"
        )
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_file_name(shard):
            raise BrokenFileError(
                f"{where} places {tensor[:80]!r} in {str(shard)[:80]!r}, expected the name of a "
                ".safetensors file beside it"
            )
        shards.setdefault(shard, []).append(tensor)
    return shards


def _is_file_name(name: str) -> bool:
    """A file in the same folder: nothing that leads out of it."""
    plain = name.isprintable() and not set("\\:") & set(name)
    parts = name.split("/")
    return plain and name.endswith(".safetensors") and not {"", ".", ".."} & set(parts)


def check_complete(index: Mapping[str, list[str]], headers: Mapping[str, Header], at: str) -> None:
    """Every tensor of the index must be in its shard."""
    for shard, tensors in index.items():
        missing = set(tensors) - {tensor.name for tensor in headers[shard].tensors}
        if missing:
            raise BrokenFileError(
                f"{at}: {shard} lacks {len(missing)} tensors that the index places there, "
                f"such as {min(missing)[:80]!r}: the shard is from another checkpoint or damaged"
            )


def joined(headers: Iterable[Header], where: str) -> tuple[NamedTensor, ...]:
    """The tensors of all files of a checkpoint; none may be in two of them."""
    found: dict[str, NamedTensor] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in found:
                raise BrokenFileError(
                    f"{where}: tensor {tensor.name[:80]!r} is in two files: they are of "
                    "different checkpoints, keep those of one"
                )
            found[tensor.name] = tensor
    return tuple(found.values())


def read_index(path: Path) -> dict[str, Header]:
    """Headers of all shards of an index file, by file name."""
    index = parse_index(read_bounded(path, MAX_INDEX_BYTES), str(path))
    missing = [shard for shard in index if not (path.parent / shard).exists()]
    if missing:
        raise BrokenFileError(
            f"{path} names {len(index)} files and {len(missing)} are missing, such as "
            f"{min(missing)}: finish the download"
        )
    headers = {shard: read_header(path.parent / shard) for shard in sorted(index)}
    check_complete(index, headers, str(path))
    return headers
