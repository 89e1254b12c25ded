"""``PYTORCH_CUDA_ALLOC_CONF`` as far as it decides how memory is rounded, split, grown and freed.

Names, defaults and bounds: torch 2.13 c10/core/AllocatorConfig and c10/cuda/CUDAAllocatorConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from willfit.allocator.rounding import LARGE_SEGMENT, MIN_LARGE
from willfit.allocator.values import backend, divisions, flag, power2, share, threshold, whole
from willfit.errors import InputError
from willfit.units import MIB


@dataclass(frozen=True, kw_only=True)
class AllocatorConfig:
    """Settings of the caching allocator."""

    expandable_segments: bool = False
    """Whether one segment a pool and stream grows page by page instead of new ones being taken."""
    max_split_bytes: int | None = None
    """Blocks from this size on are never split; None is no limit."""
    max_non_split_rounding_bytes: int = LARGE_SEGMENT
    """How much larger than the request an unsplittable block may be."""
    large_segment_bytes: int = LARGE_SEGMENT
    """Segment, or page of an expandable one, for allocations above 1 MiB and below 10 MiB."""
    power2_divisions: tuple[int, ...] = ()
    """By `size_class`: sizes are rounded up to (power of two below)/this; 0 or 1 is off there."""
    gc_threshold: float = 0.0
    """Share of what is allowed from which on unused segments are given back; 0 is never."""
    memory_fraction: float = 1.0
    """Share of the device's memory that this process may reserve."""
    rejects_early: bool = False
    """Whether what exceeds that share fails at once, before anything cached is given back."""
    ignored: tuple[str, ...] = ()
    """Settings that were given and change nothing in the simulation."""


def parse_alloc_conf(text: str) -> AllocatorConfig:
    """Settings of ``expandable_segments:True,garbage_collection_threshold:0.8``.

    What decides no device memory of the native allocator (pinned memory, locks) goes to
    ``ignored``, as does a garbage collection that nothing limits. Raises `InputError` where torch
    2.13 accepts no such key or value.
    """
    config = AllocatorConfig()
    items = [item.partition(":") for item in _items("".join(text.split()))]
    # the bounds of other settings depend on the segments' size, which torch too reads first
    for key, _, value in sorted(items, key=lambda item: item[0] != "large_segment_size_mb"):
        config = _applied(config, key, value)
    if config.gc_threshold and config.memory_fraction == 1.0:
        note = f"garbage_collection_threshold:{config.gc_threshold:g}"
        return replace(config, ignored=(*config.ignored, note))
    return config


def _applied(config: AllocatorConfig, key: str, value: str) -> AllocatorConfig:
    if key not in KEYS:
        raise InputError(
            f"the allocator has no setting {key[:40]!r}: it reads {', '.join(_SIMULATED)}, "
            f"and ignored here {', '.join(_IGNORED)}"
        )
    try:
        if key in _SIMULATED:
            return _SIMULATED[key](config, value)
        _IGNORED[key](value)
    except ValueError as error:
        raise InputError(
            f"cannot read {f'{key}:{value}'[:60]!r} in the allocator configuration: "
            f"{key}: takes {error}"
        ) from None
    if (key, value) == ("backend", "native"):
        return config
    return replace(config, ignored=(*config.ignored, f"{key}:{value}"))


def _items(text: str) -> list[str]:
    """The parts between commas that are outside brackets."""
    items, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            items.append("")
        else:
            items[-1] += char
    return [item for item in items if item]


def _segment(config: AllocatorConfig, value: str) -> AllocatorConfig:
    size = whole(value, MIN_LARGE // MIB + 1) * MIB
    return replace(config, large_segment_bytes=size, max_non_split_rounding_bytes=size)


def _max_split(config: AllocatorConfig, value: str) -> AllocatorConfig:
    # torch reads a negative number as one near 2⁶⁴: no limit
    if value.startswith("-") and value[1:].isdecimal():
        return replace(config, max_split_bytes=None)
    least = config.large_segment_bytes // MIB
    return replace(config, max_split_bytes=whole(value, least) * MIB)


def _max_rounding(config: AllocatorConfig, value: str) -> AllocatorConfig:
    least = config.large_segment_bytes // MIB
    return replace(config, max_non_split_rounding_bytes=whole(value, least) * MIB)


_SIMULATED: Final[dict[str, Callable[[AllocatorConfig, str], AllocatorConfig]]] = {
    "expandable_segments": lambda c, v: replace(c, expandable_segments=flag(v)),
    "max_split_size_mb": _max_split,
    "max_non_split_rounding_mb": _max_rounding,
    "large_segment_size_mb": _segment,
    "roundup_power2_divisions": lambda c, v: replace(c, power2_divisions=divisions(v)),
    "garbage_collection_threshold": lambda c, v: replace(c, gc_threshold=threshold(v)),
    "per_process_memory_fraction": lambda c, v: replace(c, memory_fraction=share(v)),
    "throw_on_cudamalloc_oom": lambda c, v: replace(c, rejects_early=flag(v)),
}
_IGNORED: Final[dict[str, Callable[[str], object]]] = {
    "backend": backend,
    "graph_capture_record_stream_reuse": flag,
    "pinned_free_catch_all": flag,
    "pinned_max_cached_size_mb": whole,
    "pinned_max_round_threshold_mb": whole,
    "pinned_num_register_threads": lambda value: power2(value, 128),
    "pinned_reserve_segment_size_mb": lambda value: whole(value, 1),
    "pinned_use_background_threads": flag,
    "pinned_use_cuda_host_register": flag,
    "pinned_use_hip_host_register": flag,
    "release_lock_on_cudamalloc": flag,
    "release_lock_on_hipmalloc": flag,
}
KEYS: Final = frozenset(_SIMULATED) | frozenset(_IGNORED)
"""Every key that torch 2.13 reads."""
