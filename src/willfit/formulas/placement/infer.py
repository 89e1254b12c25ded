"""From limits to a placement: its refusal by bitsandbytes, and the smallest limits that work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from willfit.allocator.rounding import round_block
from willfit.formulas.placement.caps import BITSANDBYTES_SHARE, Mode, balanced_caps
from willfit.formulas.placement.placer import Placement, place
from willfit.formulas.placement.tree import Device, Tree, build_tree
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import ModelSpec
from willfit.scenario.stack import TESTED, Stack
from willfit.units import format_bytes

OWN_RULE_SINCE: Final = "5.0"
"""transformers release that balances by itself; 4.57 still asked accelerate."""
_MEGABYTE: Final = 10**6
_PLENTY: Final = 2**50
"""Host memory where none was given: placement then never needs the disk."""


def infer_device_map(
    model: ModelSpec,
    weights: LoadedWeights,
    gpus_free_bytes: Mapping[int, int],
    max_memory: Mapping[int | str, int] | None,
    stack: Stack,
    *,
    cpu_free_bytes: int | None = None,
    mode: Mode = "auto",
) -> Placement:
    """Where `from_pretrained` with this ``device_map`` word would put every module.

    ``gpus_free_bytes`` is what ``mem_get_info`` calls free; ``max_memory`` is used instead where
    given, as it is. ``refused`` says why loading would raise, with limits that work.
    """
    tree = build_tree(model, weights)
    cpu = _PLENTY if cpu_free_bytes is None else cpu_free_bytes
    own_rule = stack.at_least("transformers", OWN_RULE_SINCE)
    caps = balanced_caps(tree, gpus_free_bytes, max_memory, cpu, mode, by_accelerate=not own_rule)
    placement = place(tree, _quantizer_caps(weights, caps))
    return replace(
        placement,
        bytes_per_device=_bytes_per_device(weights, placement),
        refused=placement.refused or _refusal(tree, weights, placement, max_memory),
        assumptions=_assumptions(weights, stack, mode),
    )


def _refusal(
    tree: Tree,
    weights: LoadedWeights,
    placement: Placement,
    max_memory: Mapping[int | str, int] | None,
) -> str | None:
    """Bitsandbytes raises where a part of the modules is off the GPUs (`validate_environment`)."""
    devices = set(placement.device_of.values())
    if weights.quantization is None or devices == {"cpu"} or not placement.off_gpu:
        return None
    name = _culprit(tree, placement)
    size = int(tree.nodes[name].size)
    stays = "" if _is_quantized(weights, name) else f", stays {weights.dtype.name}"
    maps = " or ".join(map(_map_text, smallest_maps(tree, max_memory)))
    return (
        f"{name} takes {format_bytes(size)} ({size / 1e9:.2f} GB){stays} and "
        f"{_where(size, placement)}, so modules would go to the host, which bitsandbytes refuses "
        '("Some modules are dispatched on the CPU or the disk")'
        + (f"; smallest that work: {maps}" if maps else "")
    )


def smallest_maps(
    tree: Tree, max_memory: Mapping[int | str, int] | None
) -> tuple[dict[int, int], ...]:
    """``max_memory`` in whole MB that bitsandbytes loads: one GPU's raised, then GPU 0 alone.

    Of each of these the smallest; where it is already enough, the one given.
    """
    caps = {d: cap for d, cap in (max_memory or {}).items() if isinstance(d, int)}
    tries = [({d: cap for d, cap in caps.items() if d != index}, index) for index in caps]
    found: list[dict[int, int]] = []
    for others, index in [*tries, ({}, 0)]:
        smallest = _smallest_cap(tree, others, index)
        if smallest is not None:
            raised = dict(sorted({**others, index: smallest}.items()))
            found += [raised] if raised not in found else []
    return tuple(found)


def _smallest_cap(tree: Tree, others: Mapping[int, int], index: int) -> int | None:
    """By bisection: this many bytes work and one MB less do not."""

    def works(megabytes: int) -> bool:
        given: dict[int | str, int] = dict([*others.items(), (index, megabytes * _MEGABYTE)])
        caps = balanced_caps(tree, {}, given, 0)
        placement = place(tree, _shared(caps))
        return not placement.off_gpu and placement.refused is None

    low, high = 0, 4 * int(tree.root.size) // _MEGABYTE + 2
    if not works(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high * _MEGABYTE


def _quantizer_caps(weights: LoadedWeights, caps: dict[Device, float]) -> dict[Device, float]:
    """The limits in bytes as the weights' quantiser lets them be filled."""
    return caps if weights.quantization is None else _shared(caps)


def _shared(caps: Mapping[Device, float]) -> dict[Device, float]:
    return {device: cap * BITSANDBYTES_SHARE for device, cap in caps.items()}


def _bytes_per_device(weights: LoadedWeights, placement: Placement) -> dict[Device, int]:
    """Allocated bytes by device; what shares storage counts where its storage is."""
    totals: dict[Device, int] = {}
    for loaded in weights.rows:
        size = sum(map(round_block, (loaded.weight_bytes, *loaded.state_sizes)))
        for device in _devices(loaded.row.names(), placement) if size else ():
            totals[device] = totals.get(device, 0) + size
    return totals


def _devices(names: Iterator[str], placement: Placement) -> Iterator[Device]:
    return (placement.device(name) for name in names)


def _assumptions(weights: LoadedWeights, stack: Stack, mode: Mode) -> tuple[str, ...]:
    same = stack.version("transformers")[0] == int(TESTED["transformers"].split(".")[0])
    share = ", bitsandbytes fills 90 % of each limit" if weights.quantization is not None else ""
    version = "" if same else f" (by the rules of transformers {TESTED['transformers']})"
    return (f"modules placed as device_map {mode} would{version}{share}",)


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
        rooms = ", ".join(f"GPU {device} {format_bytes(int(cap))}" for device, cap in caps.items())
        return f"finds no GPU with room (what each may take: {rooms})"
    rest = "" if len(short) == len(caps) else ", and the others cannot take all that is left"
    return f"is more than {' or '.join(short)} may take (90 % of each cap is used){rest}"


def _is_quantized(weights: LoadedWeights, path: str) -> bool:
    return any(
        loaded.quantized
        for loaded in weights.rows
        if any(name == path or name.startswith(path + ".") for name in loaded.row.names())
    )


def _map_text(caps: Mapping[int, int]) -> str:
    return "{" + ", ".join(f'{d}: "{cap // _MEGABYTE}MB"' for d, cap in caps.items()) + "}"
