"""Which components of two peaks differ, and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from willfit.comparing.result import Moved
from willfit.results import Estimate


def components_of(estimate: Estimate) -> dict[str, int]:
    """Bytes by name at the peak of the GPU with the least headroom."""
    return {part.name: part.num_bytes for part in estimate.binding.peak.components}


def moved(a: Mapping[str, int], b: Mapping[str, int]) -> tuple[Moved, ...]:
    """Every component of both, the largest movement first."""
    every = [
        Moved(name=name, a_bytes=a.get(name, 0), b_bytes=b.get(name, 0)) for name in {**a, **b}
    ]
    return tuple(sorted(every, key=lambda part: -abs(part.change_bytes)))


def only_changed(parts: Iterable[Moved]) -> tuple[Moved, ...]:
    """Those that moved."""
    return tuple(part for part in parts if part.change_bytes)


def equal_in_all(peaks: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Components that have the same bytes everywhere; none of nothing."""
    if not peaks:
        return {}
    first, *others = peaks
    return {
        name: size
        for name, size in first.items()
        if size and all(other.get(name, 0) == size for other in others)
    }
