"""What loading sees of its machine: GPUs, free memory, and the packages that matter."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from willfit.devices import context_of, find_gpu
from willfit.errors import InputError, MissingLibraryError
from willfit.installed import installed_versions
from willfit.live.nvml import live_gpus
from willfit.scenario import Gpu, Stack
from willfit.scenario.stack import TESTED, release
from willfit.units import format_bytes

_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_USED: Final = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, kw_only=True)
class Here:
    """What is there; given instead of looked for, it makes a machine for tests."""

    gpus: tuple[Gpu, ...] = ()
    """The CUDA devices that torch sees, in its order."""
    in_use_bytes: tuple[int, ...] = ()
    """What others, and this process's own tensors, hold on each."""
    holders: tuple[str, ...] = ()
    """Who else holds memory on them, a sentence each."""
    ram_bytes: int | None = None
    """Host memory that is free now; None where the system does not tell."""
    flash_attn: bool = False
    """Whether the package flash-attn is installed."""
    hub_kernels: bool = False
    """Whether the package kernels is, with which transformers fetches flash-attn's kernels."""
    bitsandbytes: bool = True
    peft: bool = True
    stack: Stack = field(default_factory=Stack)


def look() -> Here:
    """The machine that runs this; raises `MissingLibraryError` without torch and transformers."""
    for library in ("torch", "transformers", "accelerate"):
        if not _installed(library):
            raise MissingLibraryError(
                f"loading a model needs {library}: pip install 'willfit[trace]'"
            )
    gpus = _gpus()
    return Here(
        gpus=tuple(gpu for gpu, _ in gpus),
        in_use_bytes=tuple(in_use for _, in_use in gpus),
        holders=tuple(_holders()) if gpus else (),
        ram_bytes=free_ram(),
        flash_attn=_installed("flash_attn"),
        hub_kernels=_installed("kernels"),
        bitsandbytes=_installed("bitsandbytes"),
        peft=_installed("peft"),
        stack=installed_stack(),
    )


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def installed_stack() -> Stack:
    """The installed versions; what is not installed is taken as tested."""
    known = {name: text for name, text in installed_versions(TESTED).items() if release(text)}
    alloc_conf = os.environ.get("PYTORCH_ALLOC_CONF", os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""))
    return Stack(versions={**TESTED, **known}, alloc_conf=alloc_conf)


def _gpus() -> list[tuple[Gpu, int]]:
    """Each GPU that torch sees, so that ``CUDA_VISIBLE_DEVICES`` holds, and what is in use on it.

    In use is all that is not free, less what this process can use again: its own context, which
    an estimate counts itself, and blocks that torch keeps without tensors in them.
    """
    import torch

    found: list[tuple[Gpu, int]] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties: Any = torch.cuda.get_device_properties(index)
        gpu = _known(properties)
        free, total = torch.cuda.mem_get_info(index)
        cached = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
        own = context_of(gpu).nominal_bytes + cached
        found.append((gpu, max(0, total - free - own)))
    return found


def _holders() -> Iterator[str]:
    """Other processes with memory on a GPU, as the driver counts GPUs; silent without NVML."""
    try:
        found = live_gpus()
    except InputError:
        return
    for number, live in enumerate(found):
        for process in live.processes:
            if process.pid != os.getpid() and process.used_bytes:
                yield (
                    f"process {process.pid} ({process.name}) holds "
                    f"{format_bytes(process.used_bytes)} of {live.name} {number}"
                )


def _known(properties: Any) -> Gpu:
    capability = (int(properties.major), int(properties.minor))
    return known_gpu(str(properties.name), int(properties.total_memory), capability)


def known_gpu(name: str, capacity_bytes: int, compute_capability: tuple[int, int]) -> Gpu:
    """The catalogue's card of that name with the capacity that torch has; else what torch tells."""
    try:
        card = find_gpu(name)
    except InputError:
        return Gpu(
            name=name,
            capacity_bytes=capacity_bytes,
            compute_capability=compute_capability,
            sources={"capacity_bytes": "torch"},
        )
    return replace(card, capacity_bytes=capacity_bytes, capacity_is_nominal=False)


def free_ram() -> int | None:
    """Host memory free now, within the limit of a container where there is one."""
    try:
        import psutil  # type: ignore[import-untyped]  # accelerate brings it; it has no stubs
    except ImportError:
        return None
    free = int(psutil.virtual_memory().available)
    try:
        return min(free, int(_LIMIT.read_text()) - int(_USED.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
