"""``PYTORCH_CUDA_ALLOC_CONF`` as far as it decides how memory is rounded, split and grown.

Names and defaults: torch 2.13 include/c10/core/AllocatorConfig.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from willfit.allocator.rounding import LARGE_SEGMENT
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
    power2_divisions: int = 0
    """Sizes are rounded up to a multiple of (power of two below)/this; 0 or 1 is off."""
    ignored: tuple[str, ...] = ()
    """Settings that were given and are not simulated."""


_KEYS: Final[dict[str, Callable[[AllocatorConfig, str], AllocatorConfig]]] = {
    "expandable_segments": lambda c, v: replace(c, expandable_segments=v.lower() == "true"),
    "max_split_size_mb": lambda c, v: replace(c, max_split_bytes=int(v) * MIB),
    "max_non_split_rounding_mb": lambda c, v: replace(c, max_non_split_rounding_bytes=int(v) * MIB),
    "large_segment_size_mb": lambda c, v: replace(c, large_segment_bytes=int(v) * MIB),
    "roundup_power2_divisions": lambda c, v: replace(c, power2_divisions=int(v)),
}


NOT_SIMULATED: Final = frozenset(
    [
        "backend",
        "garbage_collection_threshold",
        "graph_capture_record_stream_reuse",
        "per_process_memory_fraction",
        "pinned_background_threads",
        "pinned_free_catch_all",
        "pinned_max_power2_size_mb",
        "pinned_max_round_threshold_mb",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_use_cuda_host_register",
        "pinned_use_hip_host_register",
        "release_lock_on_cudamalloc",
        "release_lock_on_hipmalloc",
        "throw_on_cudamalloc_oom",
    ]
)
"""Further keys that torch reads."""


def parse_alloc_conf(text: str) -> AllocatorConfig:
    """Settings of ``expandable_segments:True,max_split_size_mb:128``.

    A key that is not simulated (garbage collection, pinned memory, a list of divisions) goes to
    ``ignored``. Raises `InputError` where a value cannot be read.
    """
    config = AllocatorConfig()
    for item in _items(text):
        key, colon, value = (part.strip() for part in item.partition(":"))
        if key not in _KEYS and key not in NOT_SIMULATED:
            raise InputError(
                f"the allocator has no setting {key[:40]!r}: it reads {', '.join(_KEYS)} and others"
            )
        read = _KEYS.get(key)
        if read is None or value.startswith("["):
            config = replace(config, ignored=(*config.ignored, item))
            continue
        try:
            config = read(config, value)
        except ValueError:
            colon = ""
        if not colon:
            raise InputError(
                f"cannot read {item[:60]!r} in the allocator configuration: expected KEY:VALUE "
                "with a whole number or True, for example max_split_size_mb:128"
            )
    return config


def _items(text: str) -> list[str]:
    """The parts between commas that are outside brackets."""
    items, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            items.append("")
        else:
            items[-1] += char
    return [item.strip() for item in items if item.strip()]
