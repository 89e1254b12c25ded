"""The allocator settings that a snapshot was recorded with."""

from __future__ import annotations

from typing import Final

from willfit.allocator.config import parse_alloc_conf
from willfit.doctor.snapshots.contents import Snapshot
from willfit.errors import InputError
from willfit.units import MIB

_TEXT_KEYS: Final = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def recorded_conf(snapshot: Snapshot, gpu: int) -> str:
    """As ``PYTORCH_CUDA_ALLOC_CONF``: torch wrote the text since 2.2; else from single values."""
    for key in _TEXT_KEYS:
        text = snapshot.settings.get(key)
        if isinstance(text, str) and text and _readable(text):
            return text
    return ",".join(_parts(snapshot, gpu))


def _readable(text: str) -> bool:
    try:
        parse_alloc_conf(text[:1000])
    except InputError:
        return False
    return len(text) <= 1000


def _parts(snapshot: Snapshot, gpu: int) -> list[str]:
    settings = snapshot.settings
    grows = any(segment.expandable for segment in snapshot.on(gpu)) or any(
        event.action == "segment_map" for event in snapshot.trace(gpu)
    )
    parts = ["expandable_segments:True"] if grows else []
    limit, threshold = settings.get("max_split_size"), settings.get("garbage_collection_threshold")
    # without a limit torch writes -1, or the largest number
    if type(limit) is int and 20 * MIB <= limit < 2**50:
        parts.append(f"max_split_size_mb:{limit // MIB}")
    if type(threshold) is float and 0 < threshold < 1:
        parts.append(f"garbage_collection_threshold:{threshold:g}")
    divisions = settings.get("roundup_power2_divisions")
    if isinstance(divisions, dict):
        pairs = [f"{size}:{number}" for size, number in divisions.items() if number]
        text = f"roundup_power2_divisions:[{','.join(pairs)}]"
        if pairs and _readable(text):
            parts.append(text)
    return parts
