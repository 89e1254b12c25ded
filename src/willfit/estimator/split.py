"""A model split over GPUs by ``device_map="auto"``: each GPU's weights, layers and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from willfit.devices import context_of
from willfit.errors import InputError
from willfit.estimator.share import Share, Spread
from willfit.formulas.phase import Stage
from willfit.formulas.placement import (
    Device,
    Placement,
    infer_device_map,
    layer_stacks,
    stage_layers,
)
from willfit.formulas.weights import LoadedWeights
from willfit.scenario import Scenario
from willfit.scenario.model import LayerGroup, ModelSpec
from willfit.units import format_bytes


def split_by_device_map(scenario: Scenario, weights: LoadedWeights) -> Spread:
    """Shares of the GPUs; refused where the libraries would refuse the placement."""
    placement = _placement(scenario, weights, scenario.workload.loading.max_memory)
    indices = _gpu_indices(scenario, placement)
    shares = tuple(
        _share(scenario, weights, placement, index, number) for number, index in enumerate(indices)
    )
    host = weights.restricted(lambda name: placement.device(name) == "cpu").weight_bytes
    disk = weights.restricted(lambda name: placement.device(name) == "disk").weight_bytes
    return Spread(
        shares=shares,
        device_map={
            path: indices.index(device) if isinstance(device, int) else device
            for path, device in placement.device_of.items()
        },
        host_weight_bytes=host,
        disk_weight_bytes=disk,
        refused=placement.refused,
        assumptions=placement.assumptions,
    )


def auto_leaves_gpu(scenario: Scenario, weights: LoadedWeights) -> str | None:
    """In words, what ``device_map="auto"`` would keep off a single GPU that holds it all.

    It fills at most 90 % of what is free, bitsandbytes 90 % of that; None where all is placed.
    """
    machine = scenario.machine
    if machine is None or weights.allocated_bytes > machine.budget_bytes(0):
        return None
    placement = _placement(scenario, weights, None)
    off = weights.restricted(lambda name: placement.device(name) != 0)
    if not placement.off_gpu:
        return None
    refused = ", which bitsandbytes refuses" if weights.quantization is not None else ""
    return (
        f'all on the GPU, device_map={{"": 0}}: "auto" fills no more than '
        f"{format_bytes(int(placement.caps[0]))} of it and would leave "
        f"{format_bytes(off.weight_bytes)} on the host{refused}"
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
        index: gpu.capacity_bytes - machine.in_use(index) - context_of(gpu).nominal_bytes
        for index, gpu in enumerate(machine.gpus)
    }


def _placement(
    scenario: Scenario, weights: LoadedWeights, max_memory: Mapping[int | str, int] | None
) -> Placement:
    """The libraries' own placement; a given map counts as it is, whatever is free."""
    machine = scenario.machine
    for device in max_memory or {}:
        if isinstance(device, int) and machine is not None and device >= len(machine.gpus):
            raise InputError(
                f"--max-memory names GPU {device}, and --gpu has {len(machine.gpus)} "
                f"(0 to {len(machine.gpus) - 1}): name the GPUs that are there"
            )
    return infer_device_map(
        scenario.model,
        weights,
        _free(scenario),
        max_memory,
        scenario.stack,
        cpu_free_bytes=machine.ram_bytes if machine is not None else None,
    )


def _share(
    scenario: Scenario, weights: LoadedWeights, placement: Placement, index: int, number: int
) -> Share:
    machine = scenario.machine
    mine = weights.restricted(lambda name: placement.device(name) == index)
    architecture = scenario.model.architecture
    decoder, encoder = _layers_on(scenario.model, placement, index)
    layers = decoder + encoder
    stage = None
    if architecture is not None:
        off = _off_gpu(scenario.model, weights, placement) if number == 0 else _NOTHING
        stage = Stage(
            layers=_part(architecture.layers, decoder + off.decoder),
            encoder_layers=_part(architecture.encoder_layers, encoder + off.encoder),
            embeddings=_holds(mine, ("embed", "wte", "word_embeddings", "shared")),
            head=_holds(mine, _HEADS) or bool(off.head_bytes) or not layers,
            fetched_bytes=off.layer_bytes,
            fetched_head_bytes=off.head_bytes,
        )
    return Share(
        index=number,
        gpu=machine.gpus[index] if machine is not None else None,
        weights=mine,
        stage=stage,
        layers=f"{layers} layers" if layers else "no layers",
    )


_HEADS: Final = ("lm_head", "embed_out", "score", "classifier")


@dataclass(frozen=True, kw_only=True)
class _Off:
    """What waits in host memory or on disk and is computed by the first GPU all the same."""

    decoder: int = 0
    encoder: int = 0
    layer_bytes: int = 0
    """Largest weight of its layers."""
    head_bytes: int = 0


_NOTHING: Final = _Off()


def _off_gpu(model: ModelSpec, weights: LoadedWeights, placement: Placement) -> _Off:
    """Accelerate runs such modules on the first GPU and copies a module's own weights for its call.

    accelerate 1.15 big_modeling.py `dispatch_model` (``main_device``), hooks.py `AlignDevicesHook`.
    """
    if not placement.off_gpu:
        return _NOTHING
    counts = [_layers_on(model, placement, device) for device in ("cpu", "disk")]
    rows = weights.restricted(lambda name: placement.device(name) in ("cpu", "disk")).rows
    heads = [row.weight_bytes for row in rows if any(name in row.row.name for name in _HEADS)]
    inside = [row.weight_bytes for row in rows if row.row.module != "Embedding"]
    return _Off(
        decoder=sum(decoder for decoder, _ in counts),
        encoder=sum(encoder for _, encoder in counts),
        layer_bytes=max((size for size in inside if size not in heads), default=0),
        head_bytes=max(heads, default=0),
    )


def _layers_on(model: ModelSpec, placement: Placement, index: Device) -> tuple[int, int]:
    """Decoder and encoder layers on a GPU; a model with one stack has only the first."""
    counts = stage_layers(placement, model).get(index, ())
    stacks = list(layer_stacks(model))
    both = model.architecture is not None and bool(model.architecture.encoder_layers)
    encoder = sum(
        count for stack, count in zip(stacks, counts, strict=False) if both and "encoder" in stack
    )
    return sum(counts) - encoder, encoder


def _part(groups: tuple[LayerGroup, ...], layers: int) -> tuple[LayerGroup, ...]:
    """So many layers of the groups, each in proportion: the kinds alternate through a stack."""
    total = sum(group.count for group in groups)
    parts: list[LayerGroup] = []
    seen = given = 0
    for group in groups:
        seen += group.count
        count = round(seen * layers / total) - given
        given += count
        parts += [replace(group, count=count)] if count else []
    return tuple(parts)


def _holds(weights: LoadedWeights, names: tuple[str, ...]) -> bool:
    return any(part in loaded.row.name for loaded in weights.rows for part in names)
