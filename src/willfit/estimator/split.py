"""A model split over GPUs by ``device_map="auto"``: each GPU's weights, layers and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from willfit.devices import context_of
from willfit.errors import InputError
from willfit.estimator.share import Share, Spread
from willfit.formulas.phase import Stage
from willfit.formulas.placement import (
    BITSANDBYTES_SHARE,
    Device,
    Placement,
    Tree,
    balanced_caps,
    build_tree,
    place,
)
from willfit.formulas.weights import LoadedWeights
from willfit.scenario import Scenario
from willfit.scenario.model import Architecture, LayerGroup, expand_pattern
from willfit.units import format_bytes

_PLENTY: Final = 2**50
"""Host memory where none was given: placement then never needs the disk."""
_MEGABYTE: Final = 10**6


def split_by_device_map(scenario: Scenario, weights: LoadedWeights) -> Spread:
    """Shares of the GPUs; refused where bitsandbytes would find modules off the GPUs."""
    tree = build_tree(scenario.model, weights)
    placement = _placement(scenario, weights, tree, scenario.workload.loading.max_memory)
    refused = _refusal(scenario, weights, tree, placement)
    shares = tuple(
        _share(scenario, weights, placement, index, number)
        for number, index in enumerate(_gpu_indices(scenario, placement))
    )
    host = weights.restricted(lambda name: placement.device(name) in ("cpu", "disk"))
    notes = ["device_map auto over the GPUs"]
    if host.weight_bytes and refused is None:
        notes.append(f"{format_bytes(host.weight_bytes)} of weights stay in host memory")
    return Spread(
        shares=shares,
        host_weight_bytes=host.weight_bytes,
        refused=refused,
        assumptions=tuple(notes),
    )


def _gpu_indices(scenario: Scenario, placement: Placement) -> list[int]:
    if scenario.machine is not None:
        return list(range(len(scenario.machine.gpus)))
    return sorted(device for device in placement.caps if isinstance(device, int))


def _free(scenario: Scenario) -> dict[int, int]:
    """Bytes that ``mem_get_info`` would call free: capacity − context − what others hold."""
    machine = scenario.machine
    if machine is None:
        return {}
    return {
        index: machine.budget_bytes(index) - context_of(gpu).nominal_bytes
        for index, gpu in enumerate(machine.gpus)
    }


def _placement(
    scenario: Scenario,
    weights: LoadedWeights,
    tree: Tree,
    max_memory: Mapping[int | str, int] | None,
) -> Placement:
    free = _free(scenario)
    given = _checked(scenario, max_memory, free)
    ram = scenario.machine.ram_bytes if scenario.machine is not None else None
    caps = balanced_caps(tree, free, given, _PLENTY if ram is None else ram)
    if weights.quantization is not None:
        caps = {device: cap * BITSANDBYTES_SHARE for device, cap in caps.items()}
    return place(tree, caps)


def _checked(
    scenario: Scenario, max_memory: Mapping[int | str, int] | None, free: Mapping[int, int]
) -> dict[int | str, int] | None:
    """A user's map, no more than what is free; raises on a GPU that is not there."""
    if max_memory is None:
        return None
    machine = scenario.machine
    for device in max_memory:
        if isinstance(device, int) and machine is not None and device >= len(machine.gpus):
            raise InputError(
                f"--max-memory names GPU {device}, and --gpu has {len(machine.gpus)} "
                f"(0 to {len(machine.gpus) - 1}): name the GPUs that are there"
            )
    return {
        device: min(cap, free.get(device, cap)) if isinstance(device, int) else cap
        for device, cap in max_memory.items()
    }


def _refusal(
    scenario: Scenario, weights: LoadedWeights, tree: Tree, placement: Placement
) -> str | None:
    """Bitsandbytes raises where a module is on the host (`validate_environment`)."""
    if not placement.off_gpu or weights.quantization is None:
        return None
    name = _culprit(tree, placement)
    size = int(tree.nodes[name].size)
    sixteen = "" if _is_quantized(weights, name) else f", stays {weights.dtype.name}"
    works = _smallest_maps(scenario, tree)
    advice = f"; smallest that work: {' or '.join(works)}" if works else ""
    return (
        f"{name} takes {format_bytes(size)} ({size / 1e9:.2f} GB){sixteen} and "
        f"{_where(size, placement)}, so modules would go to the host, which bitsandbytes refuses "
        f'("Some modules are dispatched on the CPU or the disk"){advice}'
    )


def _culprit(tree: Tree, placement: Placement) -> str:
    """The largest indivisible module that some GPU cannot hold, else the largest on the host."""
    caps = [cap for device, cap in placement.caps.items() if isinstance(device, int)]
    placed = placement.device_of
    too_large = [p for p in placed if any(tree.nodes[p].size > cap for cap in caps)]
    off = [path for path, device in placed.items() if device in ("cpu", "disk")]
    return max(too_large or off, key=lambda path: tree.nodes[path].size)


def _where(size: int, placement: Placement) -> str:
    caps = {d: cap for d, cap in placement.caps.items() if isinstance(d, int)}
    short = [f"GPU {device}" for device, cap in caps.items() if size > cap]
    if not short:
        return "finds no GPU with room"
    share = " (90 % of each cap is used)"
    rest = "" if len(short) == len(caps) else ", and the others cannot take all that is left"
    return f"is more than {' or '.join(short)} may take{share}{rest}"


def _is_quantized(weights: LoadedWeights, path: str) -> bool:
    return any(
        loaded.quantized
        for loaded in weights.rows
        if any(name == path or name.startswith(path + ".") for name in loaded.row.names())
    )


def _smallest_maps(scenario: Scenario, tree: Tree) -> list[str]:
    """Maps that work: each GPU's cap raised alone, then the smallest for one GPU; in whole MB."""
    given = scenario.workload.loading.max_memory or {}
    caps = {device: cap for device, cap in given.items() if isinstance(device, int)}
    found: list[str] = []
    candidates = [({k: v for k, v in caps.items() if k != index}, index) for index in caps]
    candidates.append(({}, 0))
    for others, index in candidates:
        smallest = _smallest_cap(tree, others, index)
        if smallest is not None:
            text = ", ".join(
                f'{device}: "{cap // _MEGABYTE}MB"'
                for device, cap in sorted({**others, index: smallest}.items())
            )
            if f"{{{text}}}" not in found:
                found.append(f"{{{text}}}")
    return found


def _smallest_cap(
    tree: Tree,
    others: Mapping[int, int],
    index: int,
) -> int | None:
    limit = 4 * int(tree.root.size) // _MEGABYTE + 2

    def works(megabytes: int) -> bool:
        caps: dict[Device, float] = {
            device: cap * BITSANDBYTES_SHARE
            for device, cap in balanced_caps(
                tree, {}, dict(sorted({**others, index: megabytes * _MEGABYTE}.items())), 0
            ).items()
        }
        return not place(tree, caps).off_gpu

    if not works(limit):
        return None
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high * _MEGABYTE


def _share(
    scenario: Scenario, weights: LoadedWeights, placement: Placement, index: int, number: int
) -> Share:
    machine = scenario.machine
    mine = weights.restricted(lambda name: placement.device(name) == index)
    architecture = scenario.model.architecture
    layers = _layers_on(scenario, placement, index)
    stage = None
    if architecture is not None:
        stage = Stage(
            layers=_part(architecture.layers, layers, architecture),
            encoder_layers=_part(architecture.encoder_layers, layers, architecture),
            embeddings=_holds(mine, ("embed", "wte", "word_embeddings", "shared")),
            head=_holds(mine, ("lm_head", "embed_out", "score", "classifier")) or not layers,
        )
    return Share(
        index=number,
        gpu=machine.gpus[index] if machine is not None else None,
        weights=mine,
        stage=stage,
        layers=f"{layers} layers" if layers else "no layers",
    )


def _layers_on(scenario: Scenario, placement: Placement, index: int) -> int:
    return sum(
        placement.device(path) == index
        for pattern in scenario.model.no_split
        if "{" in pattern
        for path in expand_pattern(pattern)
    )


def _part(
    groups: tuple[LayerGroup, ...], layers: int, architecture: Architecture
) -> tuple[LayerGroup, ...]:
    """The GPU's layers of each kind, in proportion (kinds alternate, so within one layer)."""
    total = sum(g.count for g in (*architecture.layers, *architecture.encoder_layers))
    parts = [(group, round(group.count * layers / max(total, 1))) for group in groups]
    return tuple(replace(group, count=count) for group, count in parts if count)


def _holds(weights: LoadedWeights, names: tuple[str, ...]) -> bool:
    return any(part in loaded.row.name for loaded in weights.rows for part in names)
