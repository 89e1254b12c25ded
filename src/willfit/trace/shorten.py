"""How short a model may be made so that its layers still show everything the whole one does."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from willfit.formulas.placement import Device, device_of
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.collapse import ranges
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
    """In the order in which what was left out is put back: the last layers first."""
    names: tuple[str, ...]
    """Module paths of the stacks that were shortened."""
    kept: tuple[int, ...]
    """Layers of the whole model, by their number in the short one."""

    def short(self, name: str) -> str | None:
        """Name in the short model of a tensor or module of the whole one; None where left out."""
        for stack in self.names:
            if name.startswith(stack + "."):
                number, dot, rest = name[len(stack) + 1 :].partition(".")
                if not number.isdigit():
                    return name
                layer = int(number)
                return (
                    f"{stack}.{self.kept.index(layer)}{dot}{rest}" if layer in self.kept else None
                )
        return name

    def weights(self, whole: LoadedWeights) -> LoadedWeights:
        """Those of the short model, under its names."""
        left = whole.restricted(lambda name: self.short(name) is not None)
        rows = (
            replace(row, row=replace(row.row, name=self._row(row.row.name))) for row in left.rows
        )
        return replace(left, rows=tuple(rows))

    def device_map(self, whole: Mapping[str, Device]) -> dict[str, Device]:
        """A placement of the whole model as one of the short one."""
        named = ((self.short(path), device) for path, device in whole.items())
        return {path: device for path, device in named if path is not None}

    def _row(self, pattern: str) -> str:
        matched = _RANGE.match(pattern)
        if matched is None or matched[1] not in self.names:
            return pattern
        numbers = (self.kept.index(number) for number in _numbers(matched[2]))
        return f"{matched[1]}.{{{ranges(numbers)}}}{matched[3]}"


def shorten(
    config: Mapping[str, Any],
    weights: LoadedWeights,
    device_map: Mapping[str, Device] | None = None,
) -> Shortening | None:
    """The shortest model whose layers repeat as those of ``config`` do; None where none is shorter.

    ``config`` must have the lists that say what each layer is (``layer_types``) filled in. Layers
    on different devices are shortened apart.
    """
    stacks = {
        stack: layers for stack, layers in _layers(weights).items() if len(layers) > UNITS + 1
    }
    lengths = {len(layers) for layers in stacks.values()}
    if len(lengths) != 1:
        return None  # none, or stacks of different lengths: traced whole
    (length,) = lengths
    marks = _zip(list(_marks(config, length)), length)
    marked = {
        stack: [(layer, *mark) for layer, mark in zip(layers, marks, strict=True)]
        for stack, layers in stacks.items()
    }
    kept: list[int] = []
    found: list[Shortened] = []
    for first, end in _segments(list(stacks), length, device_map):
        part = _shortest([layers[first:end] for layers in marked.values()])
        if part is None:
            kept += range(first, end)
            continue
        head, unit, left_out = part
        found += [
            Shortened(stack=stack, head=len(kept) + head, unit=unit, left_out=left_out)
            for stack in stacks
        ]
        kept += range(first, end - left_out * unit)
    if not found:
        return None
    shorter = _with_layers(config, length, kept)
    if shorter == config:  # timm's configs say nothing of layers
        return None
    return Shortening(
        config=shorter,
        stacks=tuple(reversed(found)),
        names=tuple(stacks),
        kept=tuple(kept),
    )


def _shortest(stacks: Sequence[Sequence[Any]]) -> tuple[int, int, int] | None:
    """(head, unit, units to leave out) of layers that stand side by side in several stacks."""
    repeating = [_repeats(layers) for layers in stacks]
    if any(found is None for found in repeating):
        return None
    head = max(found[0] for found in repeating if found)
    unit = math.lcm(*(found[1] for found in repeating if found))
    left_out = (len(stacks[0]) - head) // unit - UNITS
    return (head, unit, left_out) if left_out > 0 else None


def _segments(
    stacks: Sequence[str], length: int, device_map: Mapping[str, Device] | None
) -> list[tuple[int, int]]:
    """(first, end) of the layers that follow each other on the same devices."""
    if device_map is None:
        return [(0, length)]
    places = [
        [_places(f"{stack}.{layer}", device_map) for stack in stacks] for layer in range(length)
    ]
    cuts = [0, *(i for i in range(1, length) if places[i] != places[i - 1]), length]
    return list(pairwise(cuts))


def _places(path: str, device_map: Mapping[str, Device]) -> tuple[tuple[str, Device], ...]:
    """Where a layer is: its parts if they were placed one by one, else with what holds it."""
    inside = tuple(
        (placed[len(path) :], device)
        for placed, device in device_map.items()
        if f"{placed}.".startswith(f"{path}.")
    )
    return inside or (("", device_of(path, device_map)),)


def _numbers(pattern: str) -> list[int]:
    """The layers that ``0-3,7`` stands for."""
    return [int(number) for number in expand_pattern("{" + pattern + "}")]


def _layers(weights: LoadedWeights) -> dict[str, list[frozenset[Any]]]:
    """What each layer of each stack has: (rest of the name, shape, type)."""
    found: dict[str, dict[int, set[Any]]] = {}
    for loaded in weights.rows:
        matched = _RANGE.match(loaded.row.name)
        if matched is None:
            continue
        stack, numbers, rest = matched.groups()
        for number in _numbers(numbers):
            layer = found.setdefault(stack, {}).setdefault(number, set())
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


def _with_layers(config: Mapping[str, Any], length: int, kept: Sequence[int]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            changed[key] = _with_layers(value, length, kept)
        elif isinstance(value, (list, tuple)) and len(value) == length:
            changed[key] = [value[layer] for layer in kept]
        elif type(value) is int and value == length and _COUNT_FIELDS.search(key):
            changed[key] = len(kept)
        else:
            changed[key] = value
    return changed
