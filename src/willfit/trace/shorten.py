"""How short a model may be made so that its layers still show everything the whole one does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import expand_pattern
from willfit.trace.repeat import UNITS, Shortened

_RANGE: Final = re.compile(r"^(.*?)\.\{([^{}]*)\}(.*)$")
_COUNT_FIELDS: Final = re.compile(r"layer|depth|block", re.IGNORECASE)
LONGEST_UNIT: Final = 12
"""Layers that repeat together at most (Gemma-3: 6, Jamba: 8)."""
LONGEST_HEAD: Final = 8
"""Layers at the start that are unlike the rest at most (DeepSeek-V3: 3)."""


@dataclass(frozen=True, kw_only=True)
class Shortening:
    """A shorter config, and how the stacks of its model repeat."""

    config: Mapping[str, Any]
    stacks: tuple[Shortened, ...]
    kept_layers: Mapping[str, int]
    """Layers that are left, by stack."""

    def keeps(self, name: str) -> bool:
        """Whether a tensor of the whole model is in the short one."""
        for stack, layers in self.kept_layers.items():
            if name.startswith(stack + "."):
                index = name[len(stack) + 1 :].partition(".")[0]
                return not index.isdigit() or int(index) < layers
        return True


def shorten(config: Mapping[str, Any], weights: LoadedWeights) -> Shortening | None:
    """The shortest model whose layers repeat as those of ``config`` do; None where none is shorter.

    ``config`` must have the lists that say what each layer is (``layer_types``) filled in.
    """
    stacks = {
        stack: layers for stack, layers in _layers(weights).items() if len(layers) > UNITS + 1
    }
    lengths = {len(layers) for layers in stacks.values()}
    if len(lengths) != 1:
        return None  # none, or stacks of different lengths: traced whole
    (length,) = lengths
    marks = list(_marks(config, length))
    repeating = {
        stack: _repeats(
            [(layer, *mark) for layer, mark in zip(layers, _zip(marks, length), strict=True)]
        )
        for stack, layers in stacks.items()
    }
    if any(found is None for found in repeating.values()):
        return None
    head = max(found[0] for found in repeating.values() if found)
    unit = max(found[1] for found in repeating.values() if found)
    kept = head + UNITS * unit + (length - head) % unit
    shorter = _with_layers(config, length, kept)
    if kept >= length or shorter == config:  # timm's configs say nothing of layers
        return None
    short = [
        Shortened(stack=stack, head=head, unit=unit, left_out=(length - kept) // unit)
        for stack in stacks
    ]
    return Shortening(
        config=shorter,
        stacks=tuple(short),
        kept_layers=dict.fromkeys(stacks, kept),
    )


def _layers(weights: LoadedWeights) -> dict[str, list[frozenset[Any]]]:
    """What each layer of each stack has: (rest of the name, shape, type)."""
    found: dict[str, dict[int, set[Any]]] = {}
    for loaded in weights.rows:
        matched = _RANGE.match(loaded.row.name)
        if matched is None:
            continue
        stack, numbers, rest = matched.groups()
        for name in expand_pattern("{" + numbers + "}"):
            layer = found.setdefault(stack, {}).setdefault(int(name), set())
            layer.add((rest, loaded.row.shape, loaded.dtype.name, loaded.quantized))
    return {
        stack: [frozenset(layers[index]) for index in range(len(layers))]
        for stack, layers in found.items()
        if set(layers) == set(range(len(layers)))
    }


def _marks(config: Mapping[str, Any], length: int) -> Iterator[Sequence[Any]]:
    """Lists of the config that say something of each layer."""
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _marks(value, length)
        elif isinstance(value, (list, tuple)) and len(value) == length:
            yield [repr(item) for item in value]


def _zip(marks: Sequence[Sequence[Any]], length: int) -> list[tuple[Any, ...]]:
    return list(zip(*marks, strict=True)) if marks else [()] * length


def _repeats(layers: Sequence[Any]) -> tuple[int, int] | None:
    """(head, unit) of the fewest layers that the rest repeats."""
    found = [
        (head, unit)
        for head in range(min(LONGEST_HEAD, len(layers)) + 1)
        for unit in range(1, LONGEST_UNIT + 1)
        if all(layers[i] == layers[i + unit] for i in range(head, len(layers) - unit))
    ]
    return min(found, key=lambda pair: pair[0] + UNITS * pair[1], default=None)


def _with_layers(config: Mapping[str, Any], length: int, kept: int) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            changed[key] = _with_layers(value, length, kept)
        elif isinstance(value, (list, tuple)) and len(value) == length:
            changed[key] = list(value[:kept])
        elif type(value) is int and value == length and _COUNT_FIELDS.search(key):
            changed[key] = kept
        else:
            changed[key] = value
    return changed
