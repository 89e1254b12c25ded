"""A model split over GPUs by ``device_map="auto"``: each GPU's weights, layers and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from willfit.devices import context_of
from willfit.errors import InputError
from willfit.estimator.share import Share, Spread
from willfit.formulas.phase import Stage
from willfit.formulas.placement import (
    PLENTY,
    Placement,
    Tree,
    balanced_caps,
    build_tree,
    place,
    quantizer_caps,
    refusal,
)
from willfit.formulas.weights import LoadedWeights
from willfit.scenario import Scenario
from willfit.scenario.model import Architecture, LayerGroup, expand_pattern
from willfit.units import format_bytes


def split_by_device_map(scenario: Scenario, weights: LoadedWeights) -> Spread:
    """Shares of the GPUs; refused where bitsandbytes would find modules off the GPUs."""
    max_memory = scenario.workload.loading.max_memory
    tree = build_tree(scenario.model, weights)
    placement = _placement(scenario, weights, tree, max_memory)
    refused = refusal(tree, weights, placement, max_memory)
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
    caps = balanced_caps(tree, free, given, PLENTY if ram is None else ram)
    return place(tree, quantizer_caps(weights, caps))


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
