"""How many layers of each stack a device has, so that activations and KV cache can be split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from willfit.formulas.placement.placer import Placement
from willfit.formulas.placement.tree import Device
from willfit.scenario.model import ModelSpec, expand_pattern

_RANGES: Final = re.compile(r"\{[^{}]*\}")


def layer_stacks(model: ModelSpec) -> dict[str, list[str]]:
    """Module paths of each repeated stack, in model order: ``model.layers.{}`` → its layers."""
    stacks: dict[str, list[str]] = {}
    for pattern in model.no_split:
        if _RANGES.search(pattern):
            stacks.setdefault(_RANGES.sub("{}", pattern), []).extend(expand_pattern(pattern))
    return stacks


def stage_layers(placement: Placement, model: ModelSpec) -> Mapping[Device, tuple[int, ...]]:
    """Per device the number of layers of each stack, in the order of `layer_stacks`.

    Llama over two GPUs: ``{0: (15,), 1: (17,)}``; T5 with its encoder first:
    ``{0: (24, 3), 1: (0, 21)}``. A layer that is itself split counts where its first part is.
    """
    stacks = list(layer_stacks(model).values())
    counts: dict[Device, list[int]] = {}
    for number, paths in enumerate(stacks):
        for path in paths:
            device = _device(placement, path)
            counts.setdefault(device, [0] * len(stacks))[number] += 1
    return {device: tuple(numbers) for device, numbers in counts.items()}


def _device(placement: Placement, path: str) -> Device:
    """Device of a module, or of the first of its parts that were placed one by one."""
    prefixes = [path.rsplit(".", depth)[0] for depth in range(path.count(".") + 1)]
    if any(prefix in placement.device_of for prefix in (path, *prefixes)):
        return placement.device(path)
    inside = (d for p, d in placement.device_of.items() if p.startswith(path + "."))
    return next(inside, placement.device(path))
