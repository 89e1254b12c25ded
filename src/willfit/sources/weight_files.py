"""Which files of a repository or folder hold the weights, judged by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SHARD: Final = re.compile(
    r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.(?:safetensors|gguf)$"
)
_MAIN: Final = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.safetensors",
)
"""Names that libraries load by default, in this order (transformers, diffusers, old exports)."""
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER: Final = (".h5", ".msgpack", ".onnx", ".tflite", ".npz")


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """The files to read headers from."""

    index: str | None = None
    """Index file that names the shards."""
    files: tuple[str, ...] = ()
    """Weight files where there is no index."""
    gguf: tuple[str, ...] = ()
    """GGUF files, the first shard of each set."""
    why_none: str = ""
    """Why there is nothing to read headers from, for the reader."""


def pick_weights(names: Iterable[str]) -> WeightFiles:
    """Weight files among the names of one folder."""
    listed = sorted(name for name in names if "/" not in name)
    gguf = tuple(name for name in listed if name.endswith(".gguf") and is_first_shard(name))
    tensors = [n for n in listed if n.endswith(".safetensors") and not n.startswith("adapter_")]
    indexes = [name for name in listed if name.endswith(".safetensors.index.json")]
    for main in _MAIN:
        if main in tensors:
            return WeightFiles(files=(main,), gguf=gguf)
        if f"{main}.index.json" in indexes:
            return WeightFiles(index=f"{main}.index.json", gguf=gguf)
    if len(indexes) == 1:
        return WeightFiles(index=indexes[0], gguf=gguf)
    whole = _one_set(tensors)
    if whole:
        return WeightFiles(files=whole, gguf=gguf)
    return WeightFiles(gguf=gguf, why_none=_why_none(listed, tensors))


def _one_set(tensors: list[str]) -> tuple[str, ...]:
    """A single file, or the complete shards of a single set; empty where that is not clear."""
    if len(tensors) == 1 and shard(tensors[0]) is None:
        return (tensors[0],)
    parts = [shard(name) for name in tensors]
    sets = {(part[0], part[2]) for part in parts if part is not None}
    if len(sets) != 1 or None in parts:
        return ()
    (_, total), numbers = sets.pop(), {part[1] for part in parts if part is not None}
    return tuple(tensors) if numbers == set(range(1, total + 1)) else ()


def shard(name: str) -> tuple[str, int, int] | None:
    """(stem, number, total) of ``model-00002-of-00005.safetensors``; None for a whole file."""
    match = _SHARD.match(name)
    return (match["stem"], int(match["number"]), int(match["total"])) if match else None


def is_first_shard(name: str) -> bool:
    """Whether a file is whole, or the first of its set."""
    part = shard(name)
    return part is None or part[1] == 1


def _why_none(listed: list[str], tensors: list[str]) -> str:
    if tensors:
        return (
            f"of {len(tensors)} .safetensors files none is the model's by name or complete set "
            f"({', '.join(tensors[:3])}…): their headers were not read"
        )
    pickled = [name for name in listed if name.endswith(_PICKLED)]
    if pickled:
        return f"its weights are pickled ({pickled[0]}) and were not opened: shapes from the config"
    other = [name for name in listed if name.endswith(_OTHER)]
    if other:
        return f"its weights are in another format ({other[0]}): shapes from the config"
    return "there are no weights beside the config: shapes from the config"
