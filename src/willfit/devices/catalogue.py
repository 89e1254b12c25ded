"""The GPU catalogue: one row of ``data/gpus.json`` per card, each figure with its source."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from willfit.errors import InputError
from willfit.scenario.machine import Gpu
from willfit.units import MIB

FILE: Final = Path(__file__).resolve().parents[1] / "data" / "gpus.json"

_SOURCED: Final = ("capacity_bytes", "compute_capability", "bandwidth", "flops")
_VENDOR_WORDS: Final = ("nvidia", "geforce", "tesla", "amd", "instinct", "radeon", "intel", "apple")


def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the catalogue, in the file's order."""
    return _load().gpus


def find_gpu(name: str) -> Gpu:
    """The GPU called ``name`` in any usual spelling; raises `InputError` naming the nearest."""
    catalogue = _load()
    gpu = catalogue.by_key.get(_key(name)) or catalogue.by_key.get(_short_key(name))
    if gpu is None:
        near = difflib.get_close_matches(_short_key(name), catalogue.by_key, n=3, cutoff=0.5)
        names = list(dict.fromkeys(catalogue.by_key[key].name for key in near))
        hint = f"did you mean {' or '.join(names)}? " if names else ""
        raise InputError(
            f"unknown GPU {name[:60]!r}: {hint}'willfit gpus' lists them, "
            "and 24GiB:sm_86 describes any other card"
        )
    return gpu


class _Catalogue:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.gpus = tuple(_gpu(row) for row in rows)
        self.by_key: dict[str, Gpu] = {}
        for row, gpu in zip(rows, self.gpus, strict=True):
            for name in {_key(gpu.name), _short_key(gpu.name), *map(_key, row["aliases"])}:
                self._add(name, gpu)
        for gpu in self.gpus:  # 4090, 3090ti: the number alone, where it names one card
            self.by_key.setdefault(_number_key(gpu.name), gpu)

    def _add(self, key: str, gpu: Gpu) -> None:
        known = self.by_key.setdefault(key, gpu)
        if known is not gpu:
            raise ValueError(f"{key!r} names both {known.name} and {gpu.name} in {FILE.name}")


@lru_cache(maxsize=1)
def _load() -> _Catalogue:
    return _Catalogue(json.loads(FILE.read_bytes()))


def _gpu(row: Mapping[str, Any]) -> Gpu:
    """One row; a figure without a source does not load."""
    missing = [name for name in _SOURCED if not row["sources"].get(name)]
    if missing or ("context_mib" in row and not row["sources"].get("context_bytes")):
        raise ValueError(f"{row['name']}: no source for {', '.join(missing) or 'context_bytes'}")
    if "matmul_tflops" in row and not row["sources"].get("matmul"):
        raise ValueError(f"{row['name']}: no source for matmul")
    context = row.get("context_mib")
    spread = row.get("context_range_mib")
    capability = row["compute_capability"]
    return Gpu(
        name=row["name"],
        capacity_bytes=row["capacity_bytes"],
        compute_capability=(capability[0], capability[1]) if capability else (0, 0),
        bandwidth_bytes_per_s=round(row["bandwidth_gb_per_s"] * 1e9),
        flops={dtype: value * 1e12 for dtype, value in row["tflops"].items()},
        matmul_flops={d: value * 1e12 for d, value in row.get("matmul_tflops", {}).items()},
        context_bytes=context * MIB if context else None,
        context_range_bytes=(spread[0] * MIB, spread[1] * MIB) if spread else None,
        vendor=row.get("vendor", "nvidia"),
        unified_memory=bool(row.get("unified_memory")),
        capacity_is_nominal=bool(row.get("capacity_is_nominal")),
        note=row.get("note", ""),
        sources=row["sources"],
    )


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", name.lower())


def _key(name: str) -> str:
    return "".join(_words(name))


def _number_key(name: str) -> str:
    words = [word for word in _words(name) if word not in (*_VENDOR_WORDS, "rtx", "gtx")]
    return "".join(words)


def _short_key(name: str) -> str:
    return "".join(word for word in _words(name) if word not in _VENDOR_WORDS)
