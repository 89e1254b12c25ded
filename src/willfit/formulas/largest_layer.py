"""The largest layer: the biggest module that placement keeps on one device.

accelerate utils/modeling.py `get_max_layer_size`: modules named in ``_no_split_modules`` count
whole; every other module counts if it has no children. Tensors of a module with children that is
not one of those belong to no layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario.model import ModelSpec, expand_pattern


def largest_layer(model: ModelSpec, weights: LoadedWeights) -> tuple[str, int]:
    """Path and bytes of the largest layer; ("", 0) for a model without tensors."""
    whole = {path for pattern in model.no_split for path in expand_pattern(pattern)}
    sizes: dict[str, int] = {}
    for owner, size in _owners(weights.rows):
        layer = _enclosing(owner, whole) or owner
        sizes[layer] = sizes.get(layer, 0) + size
    leaves = _leaves(sizes, whole, model)
    return max(((path, sizes[path]) for path in leaves), key=lambda pair: pair[1], default=("", 0))


def _owners(rows: Iterable[LoadedRow]) -> Iterator[tuple[str, int]]:
    """Every owning module with what one tensor takes; a shared one counts at its first name."""
    for loaded in rows:
        tied = loaded.row.tied_to is not None
        size = 0 if tied else loaded.weight_bytes + sum(loaded.state_sizes)
        for name in loaded.row.names():
            yield name.rpartition(".")[0], size


def _enclosing(owner: str, whole: set[str]) -> str | None:
    """The outermost module kept whole that holds ``owner``."""
    parts = owner.split(".")
    prefixes = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return next((prefix for prefix in prefixes if prefix in whole), None)


def _leaves(sizes: dict[str, int], whole: set[str], model: ModelSpec) -> list[str]:
    composite = {path for pattern in model.composite for path in expand_pattern(pattern)}
    parents = {
        ".".join(parts[:end])
        for parts in (path.split(".") for path in sizes)
        for end in range(1, len(parts))
    }
    return [
        path for path in sizes if path in whole or (path not in composite and path not in parents)
    ]
