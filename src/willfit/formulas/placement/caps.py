"""How much each device may take: what is free or given, balanced over the GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from willfit.formulas.placement.tree import Device, Tree

Mode = Literal["auto", "balanced", "balanced_low_0", "sequential"]
"""The words that ``device_map`` takes; auto is balanced."""

SINGLE_GPU_SHARE: Final = 0.9
"""One GPU without max_memory: this part of its free memory (`get_balanced_memory`)."""
CPU_SHARE: Final = 0.9
"""Host memory without max_memory: this part of what is available (`get_max_memory`)."""
BITSANDBYTES_SHARE: Final = 0.9
"""bitsandbytes takes this part of every cap (quantizer_bnb_4bit.py `adjust_max_memory`)."""
BALANCE_BUFFER: Final = 1.25
"""Times the largest indivisible module, added to each GPU's even share."""


def balanced_caps(
    tree: Tree,
    free: Mapping[int, int],
    max_memory: Mapping[int | str, int] | None,
    cpu: int,
    mode: Mode = "auto",
    *,
    by_accelerate: bool = False,
) -> dict[Device, float]:
    """Caps of a ``device_map`` word: each GPU but the last its even share plus a buffer.

    A user's map is taken as given, also beyond what is free; without one a single GPU gives 90 %
    of its free memory and the host 90 % of ``cpu``. ``sequential`` balances nothing.
    ``by_accelerate``: the rule of transformers 4, which asked accelerate.
    """
    caps = _ordered(free if max_memory is None else max_memory)
    if max_memory is None:
        caps["cpu"] = cpu * CPU_SHARE
    gpus = [device for device, cap in caps.items() if isinstance(device, int) and cap > 0]
    if mode == "sequential" or not gpus:
        return caps
    if len(gpus) == 1 and max_memory is None:
        caps[gpus[0]] *= SINGLE_GPU_SHARE
    low_zero = mode == "balanced_low_0" and len(gpus) > 1
    share = tree.root.size // (len(gpus) - low_zero) + _buffer(tree, mean=by_accelerate)
    for index in gpus[:-1]:
        caps[index] = caps[index] if low_zero and index == 0 else min(share, caps[index])
    if low_zero and 0 in caps:
        others = sum(caps.get(index, 0) for index in range(1, len(gpus)))
        caps[0] = min(max(0, tree.root.size - others), caps[0])
    return caps


def _ordered(given: Mapping[int, int] | Mapping[int | str, int]) -> dict[Device, float]:
    """GPUs by index, then host memory, then the disk (accelerate `get_max_memory`)."""
    last = {"cpu": 1, "disk": 2}
    ordered = sorted(given.items(), key=lambda item: (last.get(str(item[0]), 0), str(item[0])))
    gpus = sorted((device, cap) for device, cap in ordered if isinstance(device, int))
    rest = [(device, cap) for device, cap in ordered if not isinstance(device, int)]
    caps: dict[Device, float] = dict(gpus)
    caps.update(rest)
    return caps


def _buffer(tree: Tree, *, mean: bool) -> int:
    """1.25 times the largest of the modules kept whole and of single modules' own tensors.

    ``mean``: of modules without children their mean instead (accelerate 1.15 utils/modeling.py
    `get_balanced_memory`).
    """
    modules = [node for node in tree.nodes.values() if node.is_module]
    whole = max((node.size for node in modules if node.whole), default=0)
    if mean:
        leaves = [node.size for node in modules if not node.children]
        return int(BALANCE_BUFFER * max(whole, int(sum(leaves) / max(len(leaves), 1))))
    leaf = max((node.own_size for node in modules), default=0)
    return int(BALANCE_BUFFER * max(whole, leaf))
