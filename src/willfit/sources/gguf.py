"""GGUF models: a file on this disk, or its header from anywhere, as a spec counted as stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from willfit.dtypes import FLOAT16
from willfit.errors import BrokenFileError, InputError
from willfit.scenario.collapse import collapse, collapse_names
from willfit.scenario.model import (
    Architecture,
    LayerGroup,
    ModelSpec,
    StoredQuantization,
    TensorRow,
)
from willfit.sources.gguf_config import GgufConfig, Metadata, gguf_config
from willfit.sources.gguf_header import GgufHeader, IncompleteError, parse_gguf
from willfit.sources.limits import MAX_GGUF_HEADER_BYTES, unreadable
from willfit.sources.safetensors import Header, joined
from willfit.sources.stored import QUANTIZED_MODULE
from willfit.sources.weight_files import shard
from willfit.units import MIB, format_bytes

FIRST_BYTES: Final = MIB
_GROWTH: Final = 4

ReadStart = Callable[[int], tuple[bytes, int | None]]
"""The first n bytes of a file (fewer where it ends) and its size, None where that is unknown."""


def read_gguf(path: Path) -> ModelSpec:
    """The model in a file, with the other shards of its set beside it."""
    names = shard_names(path.name)
    missing = [name for name in names if not path.with_name(name).exists()]
    if missing:
        raise BrokenFileError(
            f"{path} is one of {len(names)} parts and {len(missing)} are missing, such as "
            f"{missing[0]}: finish the download"
        )
    headers = [_local_header(path.with_name(name)) for name in names]
    return gguf_spec(headers, name=str(path), where=str(path))


def _local_header(path: Path) -> GgufHeader:
    def start(length: int) -> tuple[bytes, int]:
        try:
            with path.open("rb") as file:
                return file.read(length), path.stat().st_size
        except OSError as error:
            raise unreadable(path, error) from error

    return grow_header(start, str(path))


def grow_header(start: ReadStart, where: str) -> GgufHeader:
    """The header of a file whose beginning is read in growing pieces, up to the bound."""
    length = FIRST_BYTES
    while True:
        content, file_bytes = start(length)
        try:
            return parse_gguf(content, where, file_bytes)
        except IncompleteError:
            if len(content) < length or length >= MAX_GGUF_HEADER_BYTES:
                raise BrokenFileError(
                    f"{where} ends within its header, after {format_bytes(len(content))}: "
                    "download it again"
                ) from None
        length = min(length * _GROWTH, MAX_GGUF_HEADER_BYTES)


def shard_names(name: str) -> list[str]:
    """Names of all parts of a set: ``m-00001-of-00002.gguf`` stands for both."""
    part = shard(name)
    if part is None:
        return [name]
    stem, _, total = part
    if total > 10_000:
        raise InputError(f"{name} is one of {total} parts, more than any model has")
    return [f"{stem}-{number:05}-of-{total:05}.gguf" for number in range(1, total + 1)]


def gguf_spec(headers: Sequence[GgufHeader], *, name: str, where: str) -> ModelSpec:
    """The spec of a model whose parts have these headers, the first of them with the metadata."""
    tensors = joined(
        (Header(tensors=h.tensors, metadata={}, header_bytes=0) for h in headers), where
    )
    metadata = Metadata(headers[0].metadata)
    _check_parts(headers, where)
    if not tensors:
        raise BrokenFileError(f"{where} holds no tensors: it is a vocabulary, not a model")
    rows = collapse(
        replace(tensor, module=_module(tensor.name, tensor.shape)) for tensor in tensors
    )
    rows = tuple(
        row if row.dtype.is_floating else replace(row, module=QUANTIZED_MODULE) for row in rows
    )
    found = gguf_config(metadata, rows)
    architecture, notes = _architecture(found)
    return ModelSpec(
        id=name,
        library="gguf",
        source="gguf",
        standing="shapes and types from the GGUF header",
        model_class=f"{metadata.architecture or 'unknown'} (GGUF)",
        tensors=rows,
        stored_dtype=FLOAT16,
        architecture=architecture,
        config=found.config,
        no_split=_blocks(tensor.name for tensor in tensors),
        quantization=_quantization(rows, metadata),
        stated_num_params=sum(row.num_elements * row.count for row in rows),
        assumptions=(*found.assumptions, *notes),
    )


def _check_parts(headers: Sequence[GgufHeader], where: str) -> None:
    expected = headers[0].metadata.get("split.tensors.count")
    count = sum(len(header.tensors) for header in headers)
    if isinstance(expected, int) and expected != count:
        raise BrokenFileError(
            f"{where}: its parts hold {count:,} tensors and the first announces {expected:,}: "
            "a part is of another model"
        )


def _module(name: str, shape: tuple[int, ...]) -> str:
    if "norm" in name or len(shape) < 2:
        return "Norm"
    if name.startswith(("token_embd", "position_embd", "token_types", "per_layer_token_embd")):
        return "Embedding"
    return {2: "Linear", 3: "Experts", 4: "Conv2d"}.get(len(shape), "Module")


def _blocks(names: Iterable[str]) -> tuple[str, ...]:
    """Patterns of the layers: ``blk.0`` … ``blk.31`` is ``blk.{0-31}``."""
    blocks = {".".join(name.split(".")[:2]) for name in names if name.startswith("blk.")}
    return collapse_names(sorted(blocks))


def _quantization(rows: Iterable[TensorRow], metadata: Metadata) -> StoredQuantization | None:
    """The type of most weights, None where every tensor is a plain float."""
    listed = list(rows)
    amounts: Counter[str] = Counter()
    for row in listed:
        amounts[row.dtype.name] += row.num_elements * row.count
    if all(row.dtype.is_floating for row in listed):
        return None
    main = max((r for r in listed if not r.dtype.is_floating), key=lambda r: amounts[r.dtype.name])
    stored = sum(row.dtype.num_bytes(row.num_elements) * row.count for row in listed)
    settings: dict[str, Any] = {"file_type": metadata.values.get("general.file_type")}
    return StoredQuantization(
        method=f"gguf-{main.dtype.name}",
        bits=round(8 * stored / max(sum(amounts.values()), 1), 3),
        group_size=main.dtype.block_size,
        settings=settings,
    )


def _architecture(found: GgufConfig) -> tuple[Architecture | None, list[str]]:
    from willfit.sources.architecture import architecture_of

    try:
        whole = architecture_of(found.config)
        if whole is None or not found.per_layer:
            return whole, []
        return replace(whole, layers=_groups(found)), []
    except InputError as error:
        return None, [f"weights only, the layers are not known: {error}"]


def _groups(found: GgufConfig) -> tuple[LayerGroup, ...]:
    """Layers that differ in heads or width, each kind through the reader of configs."""
    from willfit.sources.architecture import architecture_of

    counts = Counter(tuple(sorted(layer.items())) for layer in found.per_layer)
    groups: list[LayerGroup] = []
    for fields, count in counts.items():
        config = {**found.config, **dict(fields), "num_hidden_layers": count}
        part = architecture_of(config)
        groups.extend(part.layers if part else ())
    return tuple(groups)
